"""The metrics as `evaluate.Metric`: `compute`, `add`, `add_batch`, `evaluate.combine` and `evaluate.save` work offline.

Importing `evaluate` takes seconds: import this module where it is used.
"""

import tempfile
from typing import Any

import datasets
import evaluate
import numpy as np

from hf_finetune.errors import InputError
from hf_finetune.evaluation import metrics
from hf_finetune.evaluation.intervals import point_values


def all_metrics(labels_N: np.ndarray, probabilities_NC: np.ndarray) -> dict[str, float]:
    """Return every metric of `metrics.METRICS` that is defined, computed by `evaluate.combine`; nothing is downloaded.

    Args:
        labels_N: true class ids, shape (N,).
        probabilities_NC: shape (N, C).

    Raises:
        InputError: see `metrics.labels_and_scores` and `metrics.as_probabilities`.
    """
    num_labels = probabilities_NC.shape[1]
    # `evaluate` makes a folder for each metric, also when it keeps the rows in memory.
    with tempfile.TemporaryDirectory(prefix="hf_finetune_metrics_") as folder:
        combined = evaluate.combine(
            [
                ClassificationMetric(name, num_labels=num_labels, keep_in_memory=True, cache_dir=folder)
                for name in metrics.METRICS
            ]
        )
        return combined.compute(
            predictions=probabilities_NC.argmax(-1), prediction_scores=probabilities_NC, references=labels_N
        )


class ClassificationMetric(evaluate.Metric):
    """A metric of `metrics.METRICS` by its name, such as `ClassificationMetric("macro_f1")`.

    Metrics of predicted classes take `predictions` (class ids), those of probabilities `prediction_scores` (rows of
    probabilities), like the modules of `evaluate`; all take `references`. The result is empty where the metric is not
    defined. Batches are checked before they are stored, as Arrow would truncate 0.7 to 0. The options are those of
    `evaluate.Metric`.

    Args:
        config_name: name of the metric.
        num_labels: number of classes, by which predicted classes are checked. None: unknown.
    """

    def __init__(self, config_name: str | None = None, *, num_labels: int | None = None, **options: Any) -> None:
        super().__init__(config_name, **options)
        self.num_labels = num_labels

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
            counts = metrics.class_counts(references, predictions, num_labels=self.num_labels)
            # In columns, as `intervals.bootstrap` has them: numpy sums them in the same order, to the same bits.
            columns = metrics.Counts(*(each[:, None] for each in (counts.correct, counts.support, counts.predicted)))
            value: float | None = self.metric.of_counts(columns).item()
        else:
            labels, scores = metrics.labels_and_scores(references, prediction_scores)
            probabilities = metrics.as_probabilities(scores)
            if isinstance(self.metric, metrics.InfluenceMetric):
                value = self.metric.value(labels, probabilities)
            else:
                value = point_values(labels, probabilities)[self.metric.name]
        return {} if value is None else {self.metric.name: value}

    def compute(
        self, *, predictions: Any = None, references: Any = None, prediction_scores: Any = None
    ) -> dict[str, float] | None:
        """Return the metric of these rows and of those that were added."""
        given = {"predictions": predictions, "references": references, "prediction_scores": prediction_scores}
        rows = {name: given[name] for name in self._feature_names()}
        if self.writer is not None or self.num_process > 1 or any(column is None for column in rows.values()):
            return super().compute(**given)
        # These are all. `evaluate` would copy them to Arrow and read them back, for each metric.
        return self._compute(**rows)

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
