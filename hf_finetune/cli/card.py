"""`hf-finetune card`: render the model card of a run, and draw its plots, again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hf_finetune.cli.parsing import parse
from hf_finetune.cli.run import importing
from hf_finetune.utils.files import write_text
from hf_finetune.utils.folder_lock import owned


@dataclass(frozen=True)
class CardJob:
    """Render the model card of a finished run again, and draw its plots from the files in its folder."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""


def card(arguments: Sequence[str]) -> None:
    job = parse(CardJob, arguments, "hf-finetune card")
    with importing():
        from hf_finetune.hub.card import render_again
        from hf_finetune.hub.run_facts import RunFacts
        from hf_finetune.pipeline.draw_plots import draw_plots, write_plots
        from hf_finetune.utils.manifest import Manifest

    folder = Path(job.run)
    facts, manifest = RunFacts.read(folder), Manifest.find(folder)
    if manifest is not None:
        # The card's numbers are those of the files that the run wrote.
        manifest.check()
    drawn = draw_plots(folder, facts)
    text = render_again(folder, list(drawn))
    with owned(folder):
        write_plots(folder, drawn)
        write_text(folder / "README.md", text)
    print(text, end="")
