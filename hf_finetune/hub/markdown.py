"""Values as Markdown that no word of the user's can break."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hf_finetune.hub.local_paths import shorten


def table(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A Markdown table, empty without rows."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in body]
    if not rows:
        return ""
    lines = [[cell.replace("|", "\\|") for cell in header], ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def interval(metric: Mapping[str, float] | None) -> str:
    """A value with its bounds; nothing for None."""
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]" if metric else ""


def percentage_points(difference: Mapping[str, float]) -> str:
    """A difference of shares with its bounds, in percentage points."""
    value, low, high = (100 * difference[name] for name in ("value", "low", "high"))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def number(value: float) -> str:
    """Four digits, or all of a whole number's."""
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{round(value):,}"
    return f"{value:.4g}"


def value_cell(value: Any) -> str:
    """A number readable, everything else as code."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return number(value) if is_number else code(shorten(value) if isinstance(value, str) else json.dumps(value))


def plain(text: str) -> str:
    """`text` in one line that Markdown and HTML leave alone."""
    return re.sub(r"([\\`*_\[\]<>|#~&$])", r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """`text` as inline code, whatever backticks it has itself."""
    text = " ".join(str(text).split())
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text[:1] in ("`", "") or text.endswith("`") else ""
    return f"{ticks}{space}{text}{space}{ticks}"


def quoted(text: str) -> str:
    """A Python string literal."""
    return json.dumps(text, ensure_ascii=False)
