"""`hf-finetune export`: a finished model for another program."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hf_finetune.cli.parsing import parse
from hf_finetune.cli.run import importing
from hf_finetune.compression.config import EXPORT_OPTIONS, ExportOptions
from hf_finetune.data.config import SourceSplit
from hf_finetune.models.config import CHECKPOINT_LIMITS, CheckpointLimits


@dataclass(frozen=True)
class ExportRows(SourceSplit):
    """Rows to compare with."""

    path: Annotated[str, tyro.conf.arg(name="data", metavar="DATA")] = ""
    """Rows by which the exported model is compared with the model: Hub id, file or folder. Default: the data of the
    run, its test rows if it has some."""


@dataclass(frozen=True)
class ExportJob:
    """Write a finished model as ONNX, or for OpenVINO, torch or transformers, with its tokenizer or image processor and
    an example, and verify it."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run or of a model, or a Hub id."""
    rows_: Annotated[ExportRows, tyro.conf.arg(name="")] = ExportRows()
    output: str | None = None
    """Folder to write. Default: that of the format, onnx/, or with that of the weights, onnx-int8/, in the folder of
    the run."""
    options: Annotated[ExportOptions, tyro.conf.arg(name="")] = EXPORT_OPTIONS
    limits: Annotated[CheckpointLimits, tyro.conf.arg(name="model")] = CHECKPOINT_LIMITS
    """Limits on the model. A run on this machine has those that it was trained with, too."""
    json: bool = False
    """Print only the result, as JSON."""


def export(arguments: Sequence[str]) -> None:
    job = parse(ExportJob, arguments, "hf-finetune export")
    with importing():
        from hf_finetune.inference import exporting
        from hf_finetune.tasks.trained_pipeline import load_finished

    source = SourceSplit(**vars(job.rows_)) if job.rows_.path else None
    exported = exporting.export(
        load_finished(job.model, limits=job.limits),
        source,
        None if job.output is None else Path(job.output).expanduser(),
        job.options,
    )
    if job.json:
        print(json.dumps({"folder": str(exported.folder), **exported.document}, indent=2, ensure_ascii=False))
    else:
        print(f"{exported}\n\n-> {exported.folder}")
