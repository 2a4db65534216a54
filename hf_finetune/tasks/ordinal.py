"""One of several ordered classes a row.

The network has an output a level, and its softmax gives the probabilities of the levels, so that a stock class holds
it. The C - 1 logits of "above this level", as CORAL and CORN have them, would mean nothing to the argmax of plain
transformers, and no linear map takes them to the logits of C classes: the losses compute them from those.

Legend: N rows, C levels.
"""

from dataclasses import asdict
from typing import Any

import numpy as np
from datasets import Dataset

from hf_finetune.data.labels import labels_of
from hf_finetune.errors import InputError
from hf_finetune.evaluation import ordinal
from hf_finetune.evaluation.intervals import Interval
from hf_finetune.evaluation.paired import paired_scores
from hf_finetune.evaluation.residuals import residuals_of_levels
from hf_finetune.features.baselines import Baseline, shallow_features
from hf_finetune.features.extractors.base import SEED
from hf_finetune.tasks.single_label import SingleLabel
from hf_finetune.training.losses.coral import Coral


class Ordinal(SingleLabel):
    """One of several ordered classes a row, by softmax."""

    name = "ordinal"
    metrics = ordinal.METRICS
    epoch_metric = "quadratic_kappa"
    summary = ("quadratic_kappa", "mae", "accuracy")
    judged_by = "quadratic_kappa"
    baseline_is_pipeline = False
    default_loss = Coral()
    other_losses = ("single-label",)
    outputs = "levels"
    model_noun = "ordinal classifier"
    purpose = "It tells {} ordered levels apart, the lowest first"

    def check_judged(self, labels: np.ndarray, split: str) -> None:
        """Check that the levels differ.

        Raises:
            InputError: naming the split.
        """
        if len(labels) and np.ptp(labels) == 0:
            raise InputError(
                f"{split}: every row has the level {self.labels[labels[0]]!r}, and kappa needs levels that differ; "
                f"name other rows by --{split}"
            )

    def epoch_values(self, labels: np.ndarray, logits_NC: np.ndarray) -> dict[str, float]:
        """Return the metrics of logits; without a correlation where the network expects one level of all rows."""
        return {"spearman": 0.0} | super().epoch_values(labels, logits_NC)

    def values(self, labels: np.ndarray, scores_NC: np.ndarray) -> dict[str, float]:
        """Return the metrics of levels and their probabilities."""
        return ordinal.ordinal_metrics(labels, scores_NC)

    def intervals(self, labels: np.ndarray, scores_NC: np.ndarray, *, resamples: int) -> dict[str, Interval]:
        """Return the metrics with intervals, see `ordinal_intervals`."""
        return ordinal.ordinal_intervals(labels, scores_NC, resamples=resamples)

    def measured(self, labels: np.ndarray, scores_NC: np.ndarray, *, resamples: int) -> dict[str, Interval]:
        """Return `intervals`."""
        return self.intervals(labels, scores_NC, resamples=resamples)

    def residuals(self, labels: np.ndarray, scores_NC: np.ndarray) -> list[dict[str, Any]]:
        """Return the errors of each level, in levels."""
        return [asdict(each) for each in residuals_of_levels(self.labels, labels, scores_NC.argmax(axis=1))]

    def difference(self, labels: np.ndarray, scores_NC: np.ndarray, others_NC: np.ndarray) -> Interval:
        """Return the difference of quadratic weighted kappas."""
        return paired_scores(*(self.by_row(labels, self.decided(each_NC)) for each_NC in (scores_NC, others_NC)))

    @property
    def compared_by(self) -> tuple[str, ...]:
        """Kappa alone."""
        return (self.judged_by,)

    def by_row(self, labels: np.ndarray, decided: np.ndarray) -> np.ndarray:
        """Return the contributions to kappa."""
        return ordinal.kappa_by_row(labels, decided)

    def constants(self, train: Dataset, rows: Dataset) -> dict[str, Baseline]:
        """Return the median level."""
        median_NC = np.zeros((len(rows), len(self.labels)))
        median_NC[:, int(np.median(labels_of(train)))] = 1
        return {"median": Baseline("median", median_NC)}

    def linear_baseline(self, train: Dataset, rows: Dataset) -> Baseline:
        """Return a logistic regression of each "above this level" on words or pixels."""
        kind, features, test, chosen, _ = shallow_features(train, rows)
        scores_NC = _above_each_level(features, labels_of(train)[chosen], test, len(self.labels))
        return Baseline(f"{kind}+ordinal logistic", scores_NC)

    def marks(self) -> dict[str, Any]:
        """Return that the classes are ordered."""
        return {"ordinal": True}


def _above_each_level(features: Any, labels_N: np.ndarray, test: Any, levels: int) -> np.ndarray:
    """Return the probabilities (N, C) of the method of Frank and Hall (2001, "A simple approach to ordinal
    classification"): a binary classifier for each level but the highest."""
    from sklearn.linear_model import LogisticRegression

    above_NC = np.ones((test.shape[0], levels + 1))
    above_NC[:, -1] = 0
    for level in range(1, levels):
        is_above_N = labels_N >= level
        above_NC[:, level] = is_above_N.mean()
        if 0 < is_above_N.sum() < len(labels_N):
            model = LogisticRegression(C=10, solver="liblinear", tol=1e-2, random_state=SEED)
            above_NC[:, level] = model.fit(features, is_above_N).predict_proba(test)[:, 1]
    # No level is exceeded more surely than a lower one.
    return -np.diff(np.minimum.accumulate(above_NC, axis=1), axis=1)
