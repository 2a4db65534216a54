"""`hf-finetune evaluate`: metrics of a finished model on labeled rows."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_finetune.cli.classify import ClassifyJob, views_of
from hf_finetune.cli.parsing import parse
from hf_finetune.cli.run import importing


@dataclass(frozen=True)
class EvaluateJob(ClassifyJob):
    """Score labeled rows."""


def evaluate(arguments: Sequence[str]) -> None:
    """score a finished model on labeled rows"""
    job = parse(EvaluateJob, None, arguments, "hf-finetune evaluate")
    views = views_of(job)
    with importing():
        from hf_finetune.data.provenance import trained_on
        from hf_finetune.evaluation.report import comparison_table
        from hf_finetune.evaluation.test_time import describe
        from hf_finetune.inference import evaluation
        from hf_finetune.training.classifier import load_trained

    classifier = load_trained(job.model, trust_remote_code=job.trust_remote_code)
    logging.getLogger("hf_finetune").setLevel(logging.INFO)  # nobody says again what the loader of the rows says
    result = evaluation.evaluate(
        classifier,
        job.data,
        batch_size=job.batch_size,
        precision=job.precision,
        views=views,
        trained_on=trained_on(job.model),
    )
    name = Path(job.model).name
    if job.json:
        print(json.dumps(result, indent=2))
    elif views is None:
        print(comparison_table([{"name": name, **result["metrics"]}]))
    else:
        seen = {"name": f"{name}, {views.number} views", **result["metrics"]}
        print(comparison_table([seen, {"name": name, **result["views"]["without"]}]))
        print(describe(result["views"]))
