"""`hf-finetune compress`: a smaller and faster classifier, with what it kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hf_finetune.cli.parsing import parse
from hf_finetune.cli.run import importing
from hf_finetune.config.compress import COMPRESS, Compress
from hf_finetune.data.config import Source
from hf_finetune.models.config import CHECKPOINT_LIMITS, CheckpointLimits


@dataclass(frozen=True)
class CompressRowsOf(Source):
    """Rows that train, choose and judge."""

    path: Annotated[str, tyro.conf.arg(name="data", metavar="DATA")] = ""
    """Labeled rows: Hub id, file or folder. They are split as those of the run. Default: the data of the run."""


@dataclass(frozen=True)
class CompressJob:
    """Prune and quantize a finished model, measure what each candidate keeps, and write the fastest one within the
    limits."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run or of a model, or a Hub id."""
    rows_: Annotated[CompressRowsOf, tyro.conf.arg(name="")] = CompressRowsOf()
    output: str | None = None
    """Folder to write. Default: compressed/ in the folder of the run."""
    resume: bool = False
    """Go on with an unfinished compression; no finished candidate is tried again."""
    options: Annotated[Compress, tyro.conf.arg(name="")] = COMPRESS
    limits: Annotated[CheckpointLimits, tyro.conf.arg(name="model")] = CHECKPOINT_LIMITS
    """Limits on the model. A run on this machine has those that it was trained with, too."""
    json: bool = False
    """Print only the result, as JSON."""


def compress(arguments: Sequence[str]) -> None:
    job = parse(CompressJob, arguments, "hf-finetune compress")
    with importing():
        from hf_finetune.inference.compressing import run
        from hf_finetune.tasks.trained_pipeline import load_finished

    compressed = run.compress(
        load_finished(job.model, limits=job.limits),
        Source(**vars(job.rows_)) if job.rows_.path else None,
        None if job.output is None else Path(job.output).expanduser(),
        job.options,
        resume=job.resume,
    )
    if job.json:
        print(json.dumps({"folder": str(compressed.folder), **compressed.document}, indent=2, ensure_ascii=False))
    else:
        print(f"{compressed}\n\n-> {compressed.folder}")
