"""The YAML metadata of a card, with `model-index`."""

import re
from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from hf_finetune.evaluation.metric_tables import METRICS
from hf_finetune.evaluation.metrics import Metric
from hf_finetune.evaluation.report import averaged
from hf_finetune.hub.run_facts import RunFacts

WIDGET = "My name is Clara and I live in Berkeley, California."
"""A text for the Hub's widget of words: none of the data, which may be private."""


def metadata(run: RunFacts) -> ModelCardData:
    """Return the card's metadata as the Hub reads them."""
    hub, task = run.recipe.hub, run.result["task"]
    is_identifier = hub.license is None or re.fullmatch(r"[a-z0-9.+-]+", hub.license)
    return ModelCardData(
        language=hub.language,
        license=hub.license if is_identifier else "other",
        license_name=None if is_identifier else hub.license,
        library_name=_library(run),
        pipeline_tag=task,
        tags=["hf_finetune", *_format_tags(run), *_adapter_tags(run)],
        base_model=run.base_model,
        datasets=None if run.data_id is None else [run.data_id],
        widget=[{"text": WIDGET}] if run.scores_words else None,
        metrics=list(dict.fromkeys(METRICS[name].hub_type if name in METRICS else name for name in run.metrics)),
        model_name=run.recipe.name,
        eval_results=[_eval_result(run, name, interval) for name, interval in run.metrics.items()],
    )


def _library(run: RunFacts) -> str | None:
    """Return the library that loads the model. None: it is a graph, which none on the Hub's list loads from onnx/."""
    if run.is_graph:
        return None
    if run.is_classical:
        return "sklearn"
    return "transformers" if run.standalone or not run.has_adapter else "peft"


def _format_tags(run: RunFacts) -> list[str]:
    return ["skops"] if run.is_classical else ["onnx"] if run.is_graph else []


def _adapter_tags(run: RunFacts) -> list[str]:
    return [run.result["method"], "peft"] if run.has_adapter else []


def _eval_result(run: RunFacts, name: str, interval: Mapping[str, Any]) -> EvalResult:
    """Return one metric of the reported split."""
    data, task = run.recipe.data, run.result["task"]
    # A metric of evaluate.extra has only a name.
    metric = {**METRICS, **run.task.metrics}.get(name, Metric(name, name))
    split = data.test if run.split == "test" else data.validation
    return EvalResult(
        task_type=task,
        task_name=task.replace("-", " ").capitalize(),
        # A required field; only a Hub id names a data set there.
        dataset_type=run.data_id or "local",
        dataset_name=f"{run.data_name}, {run.split} split",
        dataset_config=data.config_name if run.data_id else None,
        dataset_revision=data.revision if run.data_id else None,
        dataset_split=split if split and re.fullmatch(r"\w+", split) else run.split,
        metric_type=metric.hub_type,
        metric_name=metric.title + averaged(interval),
        metric_args={"average": metric.hub_average} if metric.hub_average else None,
        metric_value=round(interval["value"], 4),
    )
