"""`hf-finetune predict`: predicted labels of new rows."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hf_finetune.cli.classify import ClassifyJob, load_trained_classifier, parse_views
from hf_finetune.cli.parsing import parse
from hf_finetune.cli.run import importing


@dataclass(frozen=True)
class PredictJob(ClassifyJob):
    """Label rows."""

    output: Annotated[str, tyro.conf.arg(metavar="FILE.(csv|parquet|jsonl)")] = "predictions.csv"
    """File to write."""
    digests: bool = False
    """Also write the SHA-256 of each row's text or image file: then a .parquet file can be a teacher,
    `train DATA --teacher FILE`, on a machine without the model."""


def predict(arguments: Sequence[str]) -> None:
    job = parse(PredictJob, arguments, "hf-finetune predict")
    views = parse_views(job)
    with importing():
        from hf_finetune.inference import prediction
        from hf_finetune.utils import tables

    tables.check_output(Path(job.output), job.data.path)
    result = prediction.predict(
        load_trained_classifier(job),
        job.data,
        Path(job.output),
        batch_size=job.batch_size,
        precision=job.precision,
        views=views,
        digests=job.digests,
    )
    print(json.dumps(result, indent=2) if job.json else f"{result['rows']} rows -> {job.output}")
