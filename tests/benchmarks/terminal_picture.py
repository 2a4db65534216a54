"""Draw the terminal of a finished run: docs/quickstart.svg, from the run of model_cards/quickstart.md.

hf-finetune quickstart --output runs/quickstart-1
python tests/benchmarks/terminal_picture.py runs/quickstart-1 > docs/quickstart.svg
"""

from __future__ import annotations

import re
import sys
from html import escape

from hf_finetune import Classifier

HEADLINE = "Shares fall as the price of oil rises"
WIDTH, LINE = 7.25, 17.0
"""Of a character and of a line, in pixels."""
BACKGROUND, TEXT, DIM, GREEN, BLUE = "#0d1117", "#e6edf3", "#8b949e", "#7ee787", "#79c0ff"


def colored(line: str) -> str:
    """A line as SVG: commands are green, numbers blue, intervals dim."""
    if line.startswith("$ "):
        return f'<tspan fill="{DIM}">$</tspan><tspan fill="{GREEN}">{escape(line[1:])}</tspan>'
    parts = re.split(r"(\[[^\]]+\]|±?\b\d*\.\d+\b)", line)
    fills = [TEXT if i % 2 == 0 else DIM if part.startswith("[") else BLUE for i, part in enumerate(parts)]
    return "".join(f'<tspan fill="{fill}">{escape(part)}</tspan>' for fill, part in zip(fills, parts, strict=True))


def picture(lines: list[str]) -> str:
    """The lines as an SVG of a terminal window."""
    width, height = WIDTH * (max(map(len, lines)) + 4), LINE * (len(lines) + 3)
    texts = "\n".join(
        f'<text x="{2 * WIDTH:g}" y="{LINE * (number + 2.6):g}" textLength="{WIDTH * len(line):g}" '
        f'xml:space="preserve">{colored(line)}</text>'
        for number, line in enumerate(lines)
        if line
    )
    dots = "".join(
        f'<circle cx="{18 + 18 * i}" cy="16" r="5.5" fill="{fill}"/>'
        for i, fill in enumerate(("#ff5f57", "#febc2e", "#28c840"))
    )
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img">
<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>
{dots}
<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace" font-size="12">
{texts}
</g>
</svg>"""


if __name__ == "__main__":
    classifier = Classifier.load(sys.argv[1])
    label = classifier.predict(HEADLINE)
    share = classifier.predict_proba(HEADLINE).max()
    print(
        picture(
            [
                "$ hf-finetune quickstart",
                *classifier.result.to_text().splitlines(),
                "",
                f'$ hf-finetune predict runs/quickstart-1 --text "{HEADLINE}"',
                f"{'label':<{len(label)}}  probability  input",
                f"{label:<{len(label)}}  {share:>11.3f}  {HEADLINE}",
            ]
        )
    )
