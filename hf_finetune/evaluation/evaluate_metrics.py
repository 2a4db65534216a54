"""The metrics as `evaluate.Metric`: `compute`, `add`, `add_batch`, `evaluate.combine` and `evaluate.save` work offline.

Metrics of predicted classes take `predictions` (class ids), those of probabilities `prediction_scores` (rows of
probabilities), as evaluate's own modules name them; both take `references`. Importing `evaluate` costs seconds: import
this module where it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import datasets
import evaluate

from hf_finetune.errors import InputError
from hf_finetune.evaluation import metrics

_IDS = datasets.Value("int64")
_SCORES = datasets.List(datasets.Value("float64"))
_Metric = TypeVar("_Metric", bound=metrics.Metric)


class ClassMetric(evaluate.Metric):
    """A metric of predicted class ids by its name, such as `ClassMetric("macro_f1")`.

    Batches are checked before they are stored: arrow would cut 0.7 down to 0.
    """

    def _info(self) -> evaluate.MetricInfo:
        self.metric = _by_name(self.config_name, metrics.COUNT_METRICS)
        return _describe(self.metric, {"predictions": _IDS, "references": _IDS})

    def _compute(self, *, predictions: Any, references: Any) -> dict[str, float]:
        return {self.metric.name: float(self.metric.of_counts(metrics.class_counts(references, predictions)))}

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Add predicted and true class ids."""
        predictions = metrics.class_ids(predictions, name="predictions")
        references = metrics.class_ids(references, name="references")
        super().add_batch(predictions=predictions, references=references, **kwargs)

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Add one predicted and one true class id."""
        prediction = metrics.class_ids([prediction], name="prediction")[0]
        reference = metrics.class_ids([reference], name="reference")[0]
        super().add(prediction=prediction, reference=reference, **kwargs)


class ProbabilityMetric(evaluate.Metric):
    """A metric of probabilities by its name, such as `ProbabilityMetric("log_loss")`; one row of them a reference.

    Its result is empty where the metric is not defined.
    """

    def _info(self) -> evaluate.MetricInfo:
        self.metric = _by_name(self.config_name, metrics.PROBABILITY_METRICS)
        return _describe(self.metric, {"prediction_scores": _SCORES, "references": _IDS})

    def _compute(self, *, prediction_scores: Any, references: Any) -> dict[str, float]:
        labels, scores = metrics.labels_and_scores(references, prediction_scores)
        value = self.metric.value(labels, metrics.as_probabilities(scores))
        return {} if value is None else {self.metric.name: value}

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Add `prediction_scores`, rows of probabilities, and true class ids."""
        if predictions is not None:
            raise InputError(f"{self.metric.name}: expected prediction_scores (probabilities), got predictions")
        references, scores = metrics.labels_and_scores(references, kwargs.pop("prediction_scores", None))
        super().add_batch(references=references, prediction_scores=scores, **kwargs)

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Add one row of `prediction_scores` and its true class id."""
        scores = [kwargs.pop("prediction_scores", None)]
        self.add_batch(predictions=prediction, references=[reference], prediction_scores=scores)


def _by_name(name: str, choices: Sequence[_Metric]) -> _Metric:
    for metric in choices:
        if metric.name == name:
            return metric
    raise InputError(f"metric: expected one of {', '.join(metric.name for metric in choices)}; got {name!r}")


def _describe(metric: metrics.Metric, features: dict[str, Any]) -> evaluate.MetricInfo:
    return evaluate.MetricInfo(description=metric.title, citation="", features=datasets.Features(features))
