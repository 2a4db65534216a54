"""`hf-finetune predict`: labels for new rows."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hf_finetune.cli.classify import ClassifyJob, views_of
from hf_finetune.cli.parsing import parse
from hf_finetune.cli.run import importing


@dataclass(frozen=True)
class PredictJob(ClassifyJob):
    """Label rows."""

    output: Annotated[str, tyro.conf.arg(metavar="FILE.(csv|parquet|jsonl)")] = "predictions.csv"
    """File to write."""
    digests: bool = False
    """Write the SHA-256 of each row's text, or of its image file, as well: then a .parquet file can be a teacher,
    `train DATA --teacher FILE`, on a machine that has not the model."""


def predict(arguments: Sequence[str]) -> None:
    """label rows with a finished model"""
    job = parse(PredictJob, None, arguments, "hf-finetune predict")
    views = views_of(job)
    with importing():
        from hf_finetune.inference import prediction
        from hf_finetune.training.classifier import load_trained
        from hf_finetune.utils import tables

    tables.check_output(Path(job.output), job.data.path)
    classifier = load_trained(job.model, trust_remote_code=job.trust_remote_code)
    logging.getLogger("hf_finetune").setLevel(logging.INFO)  # nobody says again what the loader of the rows says
    result = prediction.predict(
        classifier,
        job.data,
        Path(job.output),
        batch_size=job.batch_size,
        precision=job.precision,
        views=views,
        digests=job.digests,
    )
    print(json.dumps(result, indent=2) if job.json else f"{result['rows']} rows -> {job.output}")
