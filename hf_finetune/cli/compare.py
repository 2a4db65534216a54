"""`hf-finetune compare`: finished runs on the rows that they share."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from hf_finetune.cli.parsing import parse
from hf_finetune.cli.run import importing


@dataclass(frozen=True)
class CompareJob:
    """Compare finished runs on the rows that all of them have predicted: each with the first, paired by row. The
    verdicts are corrected for the number of comparisons; for classes there are McNemar's exact test and a paired
    bootstrap, too."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN RUN [RUN ...]")]
    """Folders of runs on the same data."""
    split: Literal["test", "validation"] | None = None
    """Rows to compare. None: test, if all runs have it."""
    json: bool = False
    """Print the comparison with all changed rows as JSON."""


def compare(arguments: Sequence[str]) -> None:
    job = parse(CompareJob, arguments, "hf-finetune compare")
    with importing():
        from hf_finetune.inference.comparison import compare_runs

    comparison = compare_runs(*job.runs, split=job.split)
    print(json.dumps(comparison.to_dict(), indent=2, ensure_ascii=False) if job.json else comparison)
