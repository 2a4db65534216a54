"""Any number of tags a row.

Legend: N rows, C tags, D features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from scipy.special import expit, logit
from torch import Tensor

from hf_finetune.data.labels import labels_of
from hf_finetune.evaluation import multi_label
from hf_finetune.evaluation.intervals import Interval
from hf_finetune.evaluation.paired import paired_scores
from hf_finetune.evaluation.per_class import ClassScores, scores_of_counts
from hf_finetune.features.baselines import Baseline, shallow_features
from hf_finetune.tasks.base import HeadFit, Task
from hf_finetune.training import warm_start
from hf_finetune.training.losses.asymmetric import Asymmetric
from hf_finetune.training.losses.binary_cross_entropy import BinaryCrossEntropy
from hf_finetune.training.losses.config import ClassWeights, Loss
from hf_finetune.training.losses.weighted import WeightedLoss
from hf_finetune.training.warm_start import FittedHead, Standardized

THRESHOLD, LEAST = 0.5, 1e-12


@dataclass(frozen=True)
class MultiLabel(Task):
    """Any number of tags a row, each by a sigmoid and binary cross-entropy."""

    thresholds: tuple[float, ...] = ()
    """Probability from which each tag is predicted. (): 0.5 for all."""

    name = "multi-label"
    problem_type = "multi_label_classification"
    metrics = multi_label.METRICS
    epoch_metric = "micro_f1"
    summary = ("micro_f1", "macro_f1", "mean_average_precision")
    judged_by = "micro_f1"
    default_loss = BinaryCrossEntropy()
    constant = "the most frequent tags"
    outputs = "tags"
    calibrates = True
    has_rare = True
    weighs_positives = True
    # They weigh having a tag against lacking it, however often its rows are drawn.
    always_used = ("objective.class_weights",)
    model_noun = "tagger"
    purpose = "It assigns any number of {} tags"
    rare_remedy = "--objective.loss Asymmetric"
    activation = "sigmoid"
    refuses: ClassVar[Mapping[str, str]] = {
        "objective.logit_adjustment": "it shifts the classes of one softmax against each other, and each tag has a "
        "sigmoid of its own; use objective.class_weights",
        "objective.contrast": "it compares the rows of one class, and a row has several tags",
        "data.augment": "MixHalves joins texts of one class, and a row has several tags",
    }

    @property
    def thresholds_C(self) -> np.ndarray:
        """Threshold of each tag, shape (C,)."""
        return np.asarray(self.thresholds) if self.thresholds else np.full(len(self.labels), THRESHOLD)

    def class_weights(self, weights: ClassWeights, counts_C: Sequence[float], rows: int) -> tuple[float, ...]:
        """Return the weight of each tag where a row has it.

        Raises:
            InputError: a weight for an unknown tag, or weights that are not for tags.
        """
        return weights.of_tags(counts_C, self.labels, rows)

    def training_loss(
        self, loss: Loss | None, label_smoothing: float, weights_C: Tensor | None, shift_C: Tensor | None
    ) -> WeightedLoss:
        """Return the loss against the tags, in which the weights are of the tags that a row has."""
        chosen = self.choose_loss(loss)
        assert isinstance(chosen, BinaryCrossEntropy | Asymmetric), "the losses of tags"
        return WeightedLoss(lambda x, y: chosen(x, y, label_smoothing, weights_C))

    def fit_head(self, features_ND: np.ndarray, labels: np.ndarray, fit: HeadFit) -> FittedHead:
        """Fit a logistic regression for each tag to standardized features."""
        standard, halves, explained = Standardized.of(features_ND), fit.measured_halves(len(labels)), 0.0
        features = standard.features_ND
        weight_CD, bias_C = _one_vs_rest(features, labels, fit.inverse_strength, fit.weights_N, fit.positive_C)
        for held_out, fitted in halves:
            weight, bias = _one_vs_rest(features[fitted], labels[fitted], warm_start.MEASURED_AT)
            explained += (
                _explained(features[held_out] @ weight.T + bias, labels[held_out]) * len(held_out) / len(labels)
            )
        weight, bias = standard.fold(weight_CD, bias_C)
        return FittedHead(
            torch.tensor(weight, dtype=torch.float32),
            torch.tensor(bias, dtype=torch.float32),
            float(explained) if fit.explains else math.nan,
        )

    def rows_per_output(self, labels: np.ndarray) -> np.ndarray:
        """Return the rows of each tag."""
        return labels.sum(axis=0, dtype=np.int64)

    def values(self, labels: np.ndarray, scores_NC: np.ndarray) -> dict[str, float]:
        """Return the metrics of tags and probabilities."""
        return multi_label.multi_label_metrics(labels, scores_NC, self.thresholds_C)

    def epoch_values(self, labels: np.ndarray, logits_NC: np.ndarray) -> dict[str, float]:
        """Return the metrics at the best thresholds of these rows, which the trained model will have."""
        scores_NC = self.scores(logits_NC)
        return self.calibrated(labels, scores_NC).values(labels, scores_NC)

    def intervals(self, labels: np.ndarray, scores_NC: np.ndarray, *, resamples: int) -> dict[str, Interval]:
        """Return the metrics with intervals by the bootstrap over rows."""
        return multi_label.multi_label_intervals(labels, scores_NC, self.thresholds_C, resamples=resamples)

    def difference(self, labels: np.ndarray, scores_NC: np.ndarray, others_NC: np.ndarray) -> Interval:
        """Return the difference of micro F1, each model at its own thresholds.

        The other's scores are compared with `THRESHOLD`: they come with their thresholds moved there.
        """
        mine, others = scores_NC >= self.thresholds_C, others_NC >= THRESHOLD
        return paired_scores(self.by_row(labels, mine), self.by_row(labels, others))

    def by_row(self, labels: np.ndarray, decided: np.ndarray) -> np.ndarray:
        """Return the contributions to micro F1."""
        return multi_label.micro_f1_by_row(labels, decided)

    def further_differences(
        self, labels: np.ndarray, scores_NC: np.ndarray, others_NC: np.ndarray
    ) -> dict[str, Interval]:
        """Return the difference of mean average precisions."""
        if not labels.any():
            return {}
        pair = (multi_label.average_precision_by_row(labels, each_NC) for each_NC in (scores_NC, others_NC))
        return {"mean_average_precision": paired_scores(*pair)}

    def majority(self, labels: np.ndarray) -> np.ndarray:
        """Return the share of each tag."""
        return labels.mean(axis=0)

    def settled(self, scores_NC: np.ndarray) -> np.ndarray:
        """Return the scores with the threshold of each tag moved to `THRESHOLD`."""
        return _moved(scores_NC, self.thresholds_C)

    def agreement(self, scores_NC: np.ndarray, others_NC: np.ndarray) -> float:
        """Return the share of tags of all rows that both predict, or both do not, see `difference`."""
        return float(((scores_NC >= self.thresholds_C) == (others_NC >= THRESHOLD)).mean())

    def constants(self, train: Dataset, rows: Dataset) -> dict[str, Baseline]:
        """Return the most frequent tags."""
        return {"majority": Baseline("majority", np.tile(self.majority(labels_of(train)), (len(rows), 1)))}

    def linear_baseline(self, train: Dataset, rows: Dataset) -> Baseline:
        """Return one-vs-rest logistic regression on words or pixels."""
        kind, features, test, chosen, _ = shallow_features(train, rows)
        scores_NC = _one_vs_rest_sparse(features, labels_of(train)[chosen], test)
        return Baseline(f"{kind}+logistic one-vs-rest", scores_NC)

    def per_class(self, labels: np.ndarray, scores_NC: np.ndarray) -> tuple[ClassScores, ...]:
        """Return precision, recall and F1 of each tag."""
        return scores_of_counts(multi_label.tag_counts(labels, scores_NC >= self.thresholds_C), self.labels)

    def calibrated(self, labels: np.ndarray, scores_NC: np.ndarray) -> MultiLabel:
        """Return the task with the thresholds of the best F1 on these rows."""
        return replace(self, thresholds=tuple(multi_label.best_thresholds(labels, scores_NC).round(6).tolist()))

    @property
    def cuts_C(self) -> np.ndarray:
        """The thresholds as logits."""
        return _finite_logit(self.thresholds_C)

    def decided(self, scores_NC: np.ndarray) -> np.ndarray:
        """Return a 0 or 1 for each tag."""
        return (scores_NC >= self.thresholds_C).astype(np.int64)

    def scores_of(self, predicted: Sequence[Any]) -> np.ndarray:
        """Return a probability of 1 for each predicted tag."""
        return np.array([[float(label in names) for label in self.labels] for names in predicted])

    def labels_of_names(self, names: Sequence[Any]) -> np.ndarray:
        """Return a 0 or 1 for each tag."""
        return self.scores_of(names).astype(np.int64)

    def predicted(self, scores_NC: np.ndarray) -> Sequence[Any]:
        """Return the names of the tags from their threshold on, the most probable first."""
        names = []
        for scores_C, hot_C in zip(scores_NC, scores_NC >= self.thresholds_C, strict=True):
            order = np.argsort(-scores_C, kind="stable")
            names.append([self.labels[i] for i in order if hot_C[i]])
        return names

    def label_column(self, labels: np.ndarray) -> pa.Array:
        """Return the names of tags."""
        names = [[self.labels[i] for i in np.flatnonzero(hot_C == 1)] for hot_C in labels]
        return pa.array(names, self.predicted_type)

    @property
    def predicted_type(self) -> pa.DataType:
        """Lists of text."""
        return pa.list_(pa.string())

    def marks(self) -> dict[str, Any]:
        """Return the thresholds by tag."""
        return {"thresholds": dict(zip(self.labels, self.thresholds_C.tolist(), strict=True))}


def _finite_logit(scores: np.ndarray) -> np.ndarray:
    """Return the logit of probabilities, finite also for 0 and 1."""
    return logit(np.clip(scores, LEAST, 1 - LEAST))


def _moved(scores_NC: np.ndarray, thresholds_C: np.ndarray) -> np.ndarray:
    """Return scores with the threshold of each tag moved to `THRESHOLD`.

    On the logit scale, so that the order of the scores, and so every ranking metric, stays.
    """
    return expit(_finite_logit(scores_NC) - _finite_logit(thresholds_C))


def _one_vs_rest(
    features_ND: np.ndarray,
    hot_NC: np.ndarray,
    inverse_strength: float,
    weights_N: np.ndarray | None = None,
    positive_C: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a logistic regression for each tag; a tag of no or of all rows has only a bias.

    Args:
        weights_N, positive_C: see `HeadFit`.
    """
    from sklearn.linear_model import LogisticRegression

    rows = len(hot_NC)
    shares_C = np.clip(hot_NC.mean(axis=0), 0.5 / rows, 1 - 0.5 / rows)
    weight_CD, bias_C = np.zeros((hot_NC.shape[1], features_ND.shape[1])), np.log(shares_C / (1 - shares_C))
    for tag, hot_N in enumerate(hot_NC.T):
        if 0 < hot_N.sum() < rows:
            balance = None if positive_C is None else {1: positive_C[tag]}
            probe = LogisticRegression(C=inverse_strength, max_iter=100, tol=1e-2, class_weight=balance)
            probe.fit(features_ND, hot_N, weights_N)
            weight_CD[tag], bias_C[tag] = probe.coef_[0], probe.intercept_[0]
    return weight_CD, bias_C


def _explained(logits_NC: np.ndarray, hot_NC: np.ndarray) -> float:
    """Return the share of the tags' entropy that held-out logits explain, see `FittedHead.explained`."""
    shares_C = np.clip(hot_NC.mean(axis=0), 1e-6, 1 - 1e-6)
    entropy = -(hot_NC * np.log(shares_C) + (1 - hot_NC) * np.log(1 - shares_C)).sum()
    loss = np.logaddexp(0, np.where(hot_NC == 1, -logits_NC, logits_NC)).sum()
    return float(1 - loss / max(entropy, 1e-12))


def _one_vs_rest_sparse(features: Any, hot_NC: np.ndarray, test: Any) -> np.ndarray:
    """Return the probabilities (N, C) of logistic regressions, with each tag's threshold moved to `THRESHOLD`."""
    from sklearn.linear_model import LogisticRegression

    rows = len(hot_NC)
    fitted = np.random.default_rng(0).permutation(rows) % 5 != 0
    scores_NC = np.tile(np.clip(hot_NC.mean(axis=0), 1e-6, 1 - 1e-6), (test.shape[0], 1))
    held_NC = np.tile(scores_NC[:1], (int((~fitted).sum()), 1))
    for tag, hot_N in enumerate(hot_NC.T):
        if 0 < hot_N.sum() < rows:
            model = LogisticRegression(C=10, solver="liblinear", tol=1e-2)
            scores_NC[:, tag] = model.fit(features, hot_N).predict_proba(test)[:, 1]
            if 0 < hot_N[fitted].sum() < fitted.sum():
                held_NC[:, tag] = model.fit(features[fitted], hot_N[fitted]).predict_proba(features[~fitted])[:, 1]
    thresholds_C = multi_label.best_thresholds(hot_NC[~fitted], held_NC)
    return _moved(scores_NC, thresholds_C)
