"""The YAML block of a card, with `model-index`; every value in it goes through a YAML writer."""

from __future__ import annotations

import re

from huggingface_hub import EvalResult, ModelCardData

from hf_finetune.evaluation.metrics import METRICS
from hf_finetune.hub.run_facts import RunFacts


def metadata(run: RunFacts) -> ModelCardData:
    """The card's metadata, as the Hub reads them."""
    hub, task = run.recipe.hub, run.result["task"]
    listed = hub.license is None or re.fullmatch(r"[a-z0-9.+-]+", hub.license)
    return ModelCardData(
        language=hub.language,
        license=hub.license if listed else "other",
        license_name=None if listed else hub.license,
        library_name="transformers" if run.standalone or not run.has_adapter else "peft",
        pipeline_tag=task,
        tags=["hf_finetune", *([run.result["method"], "peft"] if run.has_adapter else [])],
        base_model=run.base_model,
        datasets=None if run.data_id is None else [run.data_id],
        metrics=list(dict.fromkeys(METRICS[name].hub_type for name in run.metrics)),
        model_name=run.recipe.name,
        eval_results=[_eval_result(run, name, interval["value"]) for name, interval in run.metrics.items()],
    )


def _eval_result(run: RunFacts, name: str, value: float) -> EvalResult:
    """One metric of the scored split, for `model-index`."""
    data, task, metric = run.recipe.data, run.result["task"], METRICS[name]
    split = data.test if run.split == "test" else data.validation
    return EvalResult(
        task_type=task,
        task_name=task.replace("-", " ").capitalize(),
        # The field is needed, but only an id on the Hub names a data set there.
        dataset_type=run.data_id or "local",
        dataset_name=f"{run.data_name}, {run.split} split",
        dataset_config=data.config_name if run.data_id else None,
        dataset_revision=data.revision if run.data_id else None,
        dataset_split=split if split and re.fullmatch(r"\w+", split) else run.split,
        metric_type=metric.hub_type,
        metric_name=metric.title,
        metric_args=metric.hub_arguments,
        metric_value=round(value, 4),
    )
