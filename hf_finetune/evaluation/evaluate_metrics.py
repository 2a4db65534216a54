"""The metrics as `evaluate.Metric`: `compute`, `add`, `add_batch`, `evaluate.combine` and `evaluate.save` work offline.

Metrics of predicted classes take `predictions` (class ids), those of probabilities `prediction_scores` (rows of
probabilities), as evaluate's own modules name them; both take `references`. Importing `evaluate` costs seconds: import
this module where it is used.
"""

from __future__ import annotations

from typing import Any, get_args

import datasets
import evaluate
import numpy as np

from hf_finetune.errors import InputError
from hf_finetune.evaluation import metrics

_IDS = datasets.Value("int64")
_SCORES = datasets.List(datasets.Value("float64"))


class ClassMetric(evaluate.Metric):
    """A metric of predicted class ids. Batches are checked before they are stored: arrow would cut 0.7 down to 0."""

    key = ""
    """Its name in `metrics.count_metrics`."""

    def _info(self) -> evaluate.MetricInfo:
        return _describe(self, {"predictions": _IDS, "references": _IDS})

    def _compute(self, *, predictions: Any, references: Any) -> dict[str, float]:
        counts = metrics.class_counts(references, predictions)
        return {self.key: float(metrics.count_metrics(counts)[self.key])}

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


class Accuracy(ClassMetric):
    """Share of rows predicted right."""

    key = "accuracy"


class BalancedAccuracy(ClassMetric):
    """Mean recall over the classes that have rows."""

    key = "balanced_accuracy"


class MatthewsCorrelation(ClassMetric):
    """Correlation of labels and predictions for any number of classes."""

    key = "matthews_correlation"


class F1(ClassMetric):
    """Harmonic mean of precision and recall; `F1("macro")`, the default, `F1("micro")` or `F1("weighted")`."""

    def _info(self) -> evaluate.MetricInfo:
        average = "macro" if self.config_name == "default" else self.config_name
        if average not in get_args(metrics.Average):
            raise InputError(f"F1: expected macro, micro or weighted, got {average!r}")
        self.key = f"{average}_f1"
        return super()._info()


class ScoreMetric(evaluate.Metric):
    """A metric of probabilities, one row of them for each reference."""

    key = ""

    def _info(self) -> evaluate.MetricInfo:
        return _describe(self, {"prediction_scores": _SCORES, "references": _IDS})

    def _compute(self, *, prediction_scores: Any, references: Any) -> dict[str, float]:
        labels, scores = metrics.labels_and_scores(references, prediction_scores)
        value = self._value(labels, metrics.as_probabilities(scores))
        return {} if value is None else {self.key: float(value)}

    def _value(self, labels: np.ndarray, probabilities: np.ndarray) -> float | None:
        raise NotImplementedError

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Add `prediction_scores`, rows of probabilities, and true class ids."""
        if predictions is not None:
            raise InputError(f"{self.name}: expected prediction_scores (probabilities), got predictions")
        references, scores = metrics.labels_and_scores(references, kwargs.pop("prediction_scores", None))
        super().add_batch(references=references, prediction_scores=scores, **kwargs)

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Add one row of `prediction_scores` and its true class id."""
        scores = [kwargs.pop("prediction_scores", None)]
        self.add_batch(predictions=prediction, references=[reference], prediction_scores=scores)


class LogLoss(ScoreMetric):
    """Mean negative log-likelihood of the true classes, in nats."""

    key = "log_loss"

    def _value(self, labels: np.ndarray, probabilities: np.ndarray) -> float:
        return metrics.row_log_losses(labels, probabilities).mean()


class ExpectedCalibrationError(ScoreMetric):
    """Mean distance of confidence and accuracy over 15 confidence bins (arXiv:1706.04599)."""

    key = "ece"

    def _value(self, labels: np.ndarray, probabilities: np.ndarray) -> float:
        return metrics.expected_calibration_error(labels, probabilities)


class RocAuc(ScoreMetric):
    """Area under the ROC curve: of class 1, or each class against the rest; nothing when a class has no references."""

    key = "roc_auc"

    def _value(self, labels: np.ndarray, probabilities: np.ndarray) -> float | None:
        area = metrics.roc_auc(labels, probabilities)
        return None if area is None else area[0]


def _describe(metric: evaluate.Metric, features: dict[str, Any]) -> evaluate.MetricInfo:
    return evaluate.MetricInfo(
        description=type(metric).__doc__ or "", citation="", features=datasets.Features(features)
    )
