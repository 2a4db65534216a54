"""The metrics as `evaluate.Metric`: `compute`, `add`, `add_batch`, `evaluate.combine` and `evaluate.save` work offline.

Importing `evaluate` takes seconds: import this module where it is used.
"""

from typing import Any

import datasets
import evaluate

from hf_finetune.errors import InputError
from hf_finetune.evaluation import metrics


class ClassificationMetric(evaluate.Metric):
    """A metric of `metrics.METRICS` by its name, such as `ClassificationMetric("macro_f1")`.

    Metrics of predicted classes take `predictions` (class ids), those of probabilities `prediction_scores` (rows of
    probabilities), like the modules of `evaluate`; all take `references`. The result is empty where the metric is not
    defined. Batches are checked before they are stored, as Arrow would truncate 0.7 to 0.
    """

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in metrics.METRICS:
            raise InputError(f"metric: expected one of {', '.join(metrics.METRICS)}; got {self.config_name!r}")
        self.metric = metrics.METRICS[self.config_name]
        ids, scores = datasets.Value("int64"), datasets.List(datasets.Value("float64"))
        inputs = {"predictions": ids} if self._takes_classes else {"prediction_scores": scores}
        features = datasets.Features({**inputs, "references": ids})
        return evaluate.MetricInfo(description=self.metric.title, citation="", features=features)

    @property
    def _takes_classes(self) -> bool:
        return isinstance(self.metric, metrics.CountMetric)

    def _compute(self, *, references: Any, predictions: Any = None, prediction_scores: Any = None) -> dict[str, float]:
        if isinstance(self.metric, metrics.CountMetric):
            value: float | None = float(self.metric.of_counts(metrics.class_counts(references, predictions)))
        else:
            labels, scores = metrics.labels_and_scores(references, prediction_scores)
            value = self.metric.value(labels, metrics.as_probabilities(scores))
        return {} if value is None else {self.metric.name: value}

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Add predicted class ids, or rows of probabilities as `prediction_scores`, and true class ids."""
        if self._takes_classes:
            predictions = metrics.class_ids(predictions, name="predictions")
            references = metrics.class_ids(references, name="references")
        elif predictions is not None:
            raise InputError(f"{self.metric.name}: expected prediction_scores (probabilities), got predictions")
        else:
            scores = kwargs.pop("prediction_scores", None)
            references, kwargs["prediction_scores"] = metrics.labels_and_scores(references, scores)
        super().add_batch(predictions=predictions, references=references, **kwargs)

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Add one row, as `add_batch`."""
        predictions = None if prediction is None else [prediction]
        columns = {name: [value] for name, value in kwargs.items()}
        self.add_batch(predictions=predictions, references=[reference], **columns)
