"""A number a row.

Legend: N rows, T targets (one), D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from torch import nn

from hf_finetune.data.labels import labels_of
from hf_finetune.evaluation import regression
from hf_finetune.evaluation.intervals import Interval
from hf_finetune.evaluation.paired import paired_scores
from hf_finetune.features.baselines import Baseline, shallow_features
from hf_finetune.models.modules import classification_layers, set_layer
from hf_finetune.tasks.base import HeadFit, Task
from hf_finetune.training.losses.squared_error import SquaredError
from hf_finetune.training.warm_start import FittedHead, Standardized

PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Penalties of the ridge baseline, one of which leave-one-out errors choose."""
STRONGER = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Penalties of a fitted head, relative to that of classes."""


@dataclass(frozen=True)
class Regression(Task):
    """A number a row. The network trains on standardized targets; the scale is then folded into its last layer."""

    mean: float = 0.0
    """Of the training targets. After training, and in a saved model, 0 with deviation 1."""
    deviation: float = 1.0

    name = "regression"
    problem_type = "regression"
    metrics = regression.METRICS
    epoch_metric = "r2"
    summary = ("r2", "spearman", "mae")
    judged_by = "r2"
    default_loss = SquaredError()
    spread = "variance"
    outputs = "target"
    model_noun = "regression model"
    purpose = "It predicts {} number"
    activation = "identity"
    refuses: ClassVar[Mapping[str, str]] = {
        "objective": "its losses compare classes",
        "evaluate.extra": "its modules read one class a row",
        "pretrain.compare": "it compares accuracies",
        "objective.label_smoothing": "it spreads probability over classes, and a number has none",
        "objective.class_weights": "numbers have no classes to weigh",
        "objective.logit_adjustment": "it shifts the logits of classes, and a number has none",
        "batching.sampling": "numbers have no classes to balance",
        "data.augment": "MixHalves and by_class rare read the class of a row",
    }

    def scaled(self, labels: Any) -> Any:
        """Return standardized targets."""
        return (labels - self.mean) / self.deviation

    def fit_head(self, features_ND: np.ndarray, labels: np.ndarray, fit: HeadFit) -> FittedHead:
        """Fit ridge regression of the standardized target to standardized features."""
        from sklearn.linear_model import RidgeCV

        targets_N, standard = self.scaled(labels[:, 0]), Standardized.of(features_ND)
        # Noisy targets need far stronger penalties than classes: leave-one-out errors choose.
        model = RidgeCV([factor / fit.inverse_strength for factor in STRONGER])
        halves, predicted_N = fit.halves(len(targets_N)), np.zeros(len(targets_N))
        for held_out, fitted in (halves, halves[::-1]) if all(map(len, halves)) else ():
            model.fit(standard.features_ND[fitted], targets_N[fitted])
            predicted_N[held_out] = model.predict(standard.features_ND[held_out])
        explained = 1 - float(((predicted_N - targets_N) ** 2).sum() / ((targets_N - targets_N.mean()) ** 2).sum())
        model.fit(standard.features_ND, targets_N)
        weight, bias = standard.fold(model.coef_[None], np.array([model.intercept_]))
        return FittedHead(torch.tensor(weight, dtype=torch.float32), torch.tensor(bias, dtype=torch.float32), explained)

    def finish(self, network: nn.Module) -> None:
        """Fold mean and deviation into the last layer, so that the network answers in the target's own unit."""
        for layer in classification_layers(network):
            bias_C = layer.bias.detach() * self.deviation + self.mean
            set_layer(layer, layer.weight.detach() * self.deviation, bias_C)

    def rows_per_output(self, labels: np.ndarray) -> np.ndarray:
        """Return all rows."""
        return np.array([len(labels)])

    def logit_size(self, logits_NC: np.ndarray) -> float:
        """Return the size of the numbers, at least 1: float32 has seven digits."""
        return max(1.0, float(np.abs(logits_NC).max()))

    def scores(self, logits_NC: np.ndarray) -> np.ndarray:
        """Return the numbers themselves."""
        return np.asarray(logits_NC, dtype=np.float64)

    def training_scores(self, logits_NC: np.ndarray) -> np.ndarray:
        """Return standardized numbers in the target's own unit."""
        return self.scores(logits_NC) * self.deviation + self.mean

    def values(self, labels: np.ndarray, scores_NC: np.ndarray) -> dict[str, float]:
        """Return the metrics of numbers."""
        return regression.regression_metrics(labels[:, 0], scores_NC[:, 0])

    def intervals(self, labels: np.ndarray, scores_NC: np.ndarray, *, resamples: int) -> dict[str, Interval]:
        """Return the metrics with intervals by the bootstrap over rows."""
        return regression.regression_intervals(labels[:, 0], scores_NC[:, 0], resamples=resamples)

    def difference(self, labels: np.ndarray, scores_NC: np.ndarray, others_NC: np.ndarray) -> Interval:
        """Return the difference of R²."""
        mine, others = (regression.r2_by_row(labels[:, 0], scores[:, 0]) for scores in (scores_NC, others_NC))
        return paired_scores(mine, others)

    def baselines(self, train: Dataset, rows: Dataset) -> dict[str, Baseline]:
        """Return the mean, the median, and ridge regression on words or pixels."""
        from sklearn.linear_model import RidgeCV

        targets_N = labels_of(train)[:, 0]
        kind, features, test, chosen = shallow_features(train, rows)
        model = RidgeCV(PENALTIES).fit(features, targets_N[chosen])

        def constant(value: float) -> np.ndarray:
            return np.full((len(rows), 1), value)

        return {
            "mean": Baseline("mean", constant(float(targets_N.mean()))),
            "median": Baseline("median", constant(float(np.median(targets_N)))),
            "linear": Baseline(f"{kind}+ridge", model.predict(test)[:, None]),
        }

    def predicted(self, scores_NC: np.ndarray) -> Sequence[Any]:
        """Return the numbers."""
        return scores_NC[:, 0].tolist()

    def label_column(self, labels: np.ndarray) -> pa.Array:
        """Return the numbers."""
        return pa.array(labels[:, 0], pa.float64())

    @property
    def predicted_type(self) -> pa.DataType:
        """Numbers."""
        return pa.float64()

    def score_columns(self, scores_NC: np.ndarray) -> dict[str, pa.Array]:
        """Return no further columns."""
        return {}
