"""One class a row.

Legend: N rows, C classes, D features.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from datasets import Dataset

from hf_finetune.data.config import TaskName
from hf_finetune.evaluation import calibration
from hf_finetune.evaluation.intervals import Interval, bootstrap
from hf_finetune.evaluation.metrics import (
    METRICS,
    SUMMARY_METRICS,
    Metric,
    classification_metrics,
    row_log_losses,
)
from hf_finetune.evaluation.paired import association, paired_difference, paired_scores
from hf_finetune.evaluation.per_class import ClassScores, per_class
from hf_finetune.evaluation.report import confusion
from hf_finetune.features.baselines import Baseline, linear_baseline, majority
from hf_finetune.tasks.base import HeadFit, Task
from hf_finetune.training import warm_start
from hf_finetune.training.losses.config import Loss
from hf_finetune.training.losses.cross_entropy import CrossEntropy


class SingleLabel(Task):
    """One class a row, by softmax and cross-entropy."""

    name: ClassVar[TaskName] = "single-label"
    problem_type = "single_label_classification"
    metrics: ClassVar[Mapping[str, Metric]] = METRICS
    epoch_metric = "accuracy"
    baseline_is_pipeline: ClassVar[bool] = True
    summary = SUMMARY_METRICS
    judged_by = "accuracy"
    default_loss: ClassVar[Loss] = CrossEntropy()
    constant = "the most frequent class"
    outputs = "classes"
    has_classes = True
    rescales = True
    has_rare = True
    per_class_noun = "class"
    model_noun = "classifier"
    purpose = "It distinguishes {} classes"
    rare_remedy = "--objective.class-weights Balanced"

    def fit_head(self, features_ND: np.ndarray, labels: np.ndarray, fit: HeadFit) -> warm_start.FittedHead:
        """Fit multinomial logistic regression."""
        return warm_start.fit_head(
            features_ND,
            labels,
            len(self.labels),
            inverse_strength=fit.inverse_strength,
            stronger=fit.stronger,
            weights_N=fit.weights_N,
            first_N=fit.first_N,
            explains=fit.explains,
        )

    def rows_per_output(self, labels: np.ndarray) -> np.ndarray:
        """Return the rows of each class."""
        return np.bincount(labels, minlength=len(self.labels))

    def with_every_output(self, chosen_n: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Add the first row of each class that has none."""
        return warm_start.with_every_class(chosen_n, labels)

    def values(self, labels: np.ndarray, scores_NC: np.ndarray) -> dict[str, float]:
        """Return the metrics of classes and probabilities."""
        return classification_metrics(labels, scores_NC)

    def intervals(self, labels: np.ndarray, scores_NC: np.ndarray, *, resamples: int) -> dict[str, Interval]:
        """Return the metrics with the interval that has the best coverage for each, see `intervals.bootstrap`."""
        return bootstrap(labels, scores_NC, resamples=resamples)

    def measured(self, labels: np.ndarray, scores_NC: np.ndarray, *, resamples: int) -> dict[str, Interval]:
        """Return the values of the modules of `evaluate`, with the intervals of the bootstrap."""
        from hf_finetune.evaluation.evaluate_metrics import all_metrics  # takes seconds to import

        values = all_metrics(labels, scores_NC)
        intervals = self.intervals(labels, scores_NC, resamples=resamples)
        return {name: replace(interval, value=values[name]) for name, interval in intervals.items()}

    def calibration(self, labels: np.ndarray, scores_NC: np.ndarray) -> list[dict[str, Any]]:
        """Return the bins of the reliability diagram."""
        return [asdict(each) for each in calibration.reliability(labels, scores_NC)]

    def temperature(self, labels: np.ndarray, logits_NC: np.ndarray) -> float | None:
        """Return the temperature of arXiv:1706.04599."""
        return calibration.temperature(labels, logits_NC)

    def confused(self, labels: np.ndarray, scores_NC: np.ndarray) -> list[dict[str, Any]]:
        """Return the most confused classes."""
        return [asdict(pair) for pair in confusion(labels, scores_NC.argmax(-1), self.labels)]

    def difference(self, labels: np.ndarray, scores_NC: np.ndarray, others_NC: np.ndarray) -> Interval:
        """Return the difference of accuracies."""
        return paired_difference(scores_NC.argmax(-1) == labels, others_NC.argmax(-1) == labels)

    def log_loss_gain(self, labels: np.ndarray, scores_NC: np.ndarray, others_NC: np.ndarray) -> Interval:
        """Return the difference of log losses."""
        return paired_scores(-row_log_losses(labels, scores_NC), -row_log_losses(labels, others_NC))

    def association(self, labels: np.ndarray, scores_NC: np.ndarray, inputs: Callable[[], np.ndarray]) -> float:
        """Return the p-value of a permutation test by the log loss, on one row of each input: others depend on it.

        Out of fold no model has seen a class of a single row, whose scores say in which fold it is: such rows are left
        out, and a probability counts as 1 / N at least.
        """
        is_first_N = inputs() == np.arange(len(labels))
        counts_C = np.bincount(labels[is_first_N], minlength=len(self.labels))
        kept_N = is_first_N & (counts_C[labels] > 1)
        return association(labels[kept_N], np.log(np.maximum(scores_NC[kept_N], 1 / len(labels))))

    @property
    def compared_by(self) -> tuple[str, ...]:
        """Also macro F1."""
        return ("accuracy", "macro_f1")

    def by_row(self, labels: np.ndarray, decided: np.ndarray) -> np.ndarray:
        """Return whether each row is right."""
        return (decided == labels).astype(np.float64)

    def majority(self, labels: np.ndarray) -> np.ndarray:
        """Return a probability of 1 for the most frequent class."""
        return np.eye(len(self.labels))[np.bincount(labels).argmax()]

    def agreement(self, scores_NC: np.ndarray, others_NC: np.ndarray) -> float:
        """Return the share of rows of the same class."""
        return float((self.decided(scores_NC) == self.decided(others_NC)).mean())

    def constants(self, train: Dataset, rows: Dataset) -> dict[str, Baseline]:
        """Return the majority class."""
        return {"majority": majority(train, rows, num_labels=len(self.labels))}

    def linear_baseline(self, train: Dataset, rows: Dataset) -> Baseline:
        """Return logistic regression on words or pixels."""
        return linear_baseline(train, rows, num_labels=len(self.labels))

    def per_class(self, labels: np.ndarray, scores_NC: np.ndarray) -> tuple[ClassScores, ...]:
        """Return precision, recall and F1 of each class."""
        return per_class(labels, scores_NC.argmax(-1), self.labels)

    def decided(self, scores_NC: np.ndarray) -> np.ndarray:
        """Return the class with the highest probability."""
        return scores_NC.argmax(-1)

    def scores_of(self, predicted: Sequence[Any]) -> np.ndarray:
        """Return a probability of 1 for each predicted class."""
        return np.eye(len(self.labels))[[self.labels.index(name) for name in predicted]]

    def predicted(self, scores_NC: np.ndarray) -> Sequence[Any]:
        """Return the name of the class with the highest probability."""
        return [self.labels[i] for i in scores_NC.argmax(-1)]

    def label_column(self, labels: np.ndarray) -> pa.Array:
        """Return the names of classes."""
        return pa.array([self.labels[i] for i in labels], pa.string())

    @property
    def predicted_type(self) -> pa.DataType:
        """Text."""
        return pa.string()
