"""`hf-finetune evaluate`: metrics of a finished model on labeled rows."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_finetune.cli.classify import ClassifyJob, load_trained_classifier, parse_views
from hf_finetune.cli.parsing import parse
from hf_finetune.cli.run import importing


@dataclass(frozen=True)
class EvaluateJob(ClassifyJob):
    """Score labeled rows."""

    extra: tuple[str, ...] = ()
    """Further metrics, as modules of `evaluate`, see --evaluate.extra of `hf-finetune train --help-all`."""


def evaluate(arguments: Sequence[str]) -> None:
    job = parse(EvaluateJob, arguments, "hf-finetune evaluate")
    views = parse_views(job)
    with importing():
        from hf_finetune.data.provenance import trained_on
        from hf_finetune.evaluation.report import comparison_table, doubts_text, per_class_table, per_target_table
        from hf_finetune.evaluation.test_time import describe
        from hf_finetune.inference import evaluation

    classifier = load_trained_classifier(job)
    result = evaluation.evaluate(
        classifier,
        job.data,
        batch_size=job.batch_size,
        precision=job.precision,
        views=views,
        trained_on=trained_on(job.model),
        extra=job.extra,
        trust_remote_code=job.trust_remote_code,
    )
    name, noun = Path(job.model).name, classifier.task.per_class_noun
    if job.json:
        print(json.dumps(result, indent=2))
    elif views is None:
        print(comparison_table([{"name": name, **result["metrics"]}], noun=noun))
    else:
        with_views = {"name": f"{name}, {views.number} views", **result["metrics"]}
        print(comparison_table([with_views, {"name": name, **result["views"]["without"]}]))
        print(describe(result["views"]))
    if not job.json:
        if result["per_class"]:
            counts = classifier.task.counted
            print(f"\n{per_class_table(result['per_class'], noun=noun, counted_as=counts)}")
        if result["per_target"]:
            print(f"\n{per_target_table(result['per_target'])}")
        if result["doubts"]:
            print(f"\n{doubts_text(result['doubts'])}")
