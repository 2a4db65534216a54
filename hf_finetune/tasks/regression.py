"""A number a row, or one for each of several targets.

Legend: N rows, T targets, D features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from torch import nn

from hf_finetune.data.labels import labels_of
from hf_finetune.errors import InputError
from hf_finetune.evaluation import regression
from hf_finetune.evaluation.intervals import Interval
from hf_finetune.evaluation.paired import paired_scores
from hf_finetune.evaluation.residuals import residuals_of_target
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
    """A number for each target of a row. The network trains on standardized targets; the scale is then folded into its
    last layer."""

    means: tuple[float, ...] = ()
    """Of the training targets. (): after training, and in a saved model, 0 with deviations of 1."""
    deviations: tuple[float, ...] = ()

    name = "regression"
    problem_type = "regression"
    metrics = regression.METRICS
    epoch_metric = "r2"
    summary = ("r2", "spearman", "mae")
    judged_by = "r2"
    default_loss = SquaredError()
    spread = "variance"
    constant_fit = "their mean"
    constant = "the mean"
    outputs = "target"
    model_noun = "regression model"
    purpose = "It predicts {} number"
    activation = "identity"
    refuses: ClassVar[Mapping[str, str]] = {
        "objective.teacher_precision": "bfloat16 rounds the numbers themselves, to two or three digits",
        "--precision bf16": "bfloat16 rounds the numbers themselves, to two or three digits",
        "objective.label_smoothing": "it spreads probability over classes, and a number has none",
        "objective.class_weights": "numbers have no classes to weigh",
        "objective.logit_adjustment": "it shifts the logits of classes, and a number has none",
        "objective.contrast": "it compares the rows of a class",
        "batching.sampling": "numbers have no classes to balance",
        "data.augment": "MixHalves and by_class rare read the class of a row",
    }

    @classmethod
    def of_rows(cls, labels: tuple[str, ...], targets_NT: np.ndarray) -> Regression:
        """Return the task of training targets, which it standardizes."""
        columns = np.ascontiguousarray(targets_NT.T)
        return cls(labels, tuple(float(n.mean()) for n in columns), tuple(float(n.std()) or 1.0 for n in columns))

    def scaled(self, labels: Any) -> Any:
        """Return standardized targets."""
        if not self.means:
            return labels
        if isinstance(labels, torch.Tensor):
            return (labels - labels.new_tensor(self.means)) / labels.new_tensor(self.deviations)
        return (labels - np.array(self.means)) / np.array(self.deviations)

    def fit_head(self, features_ND: np.ndarray, labels: np.ndarray, fit: HeadFit) -> FittedHead:
        """Fit ridge regression of each standardized target to standardized features."""
        targets_NT, standard = self.scaled(labels), Standardized.of(features_ND)
        # Noisy targets need far stronger penalties than classes: leave-one-out errors choose.
        penalties = [factor / fit.inverse_strength for factor in STRONGER]
        halves, predicted_NT = fit.measured_halves(len(targets_NT)), np.zeros(targets_NT.shape)
        for held_out, fitted in halves:
            models = _ridges(standard.features_ND[fitted], targets_NT[fitted], penalties)
            predicted_NT[held_out] = _predictions(models, standard.features_ND[held_out])
        unexplained = ((predicted_NT - targets_NT) ** 2).sum() / ((targets_NT - targets_NT.mean(axis=0)) ** 2).sum()
        models = _ridges(standard.features_ND, targets_NT, penalties)
        weight, bias = standard.fold(
            np.stack([model.coef_ for model in models]), np.array([model.intercept_ for model in models])
        )
        weight_TD, bias_T = (torch.tensor(each, dtype=torch.float32) for each in (weight, bias))
        return FittedHead(weight_TD, bias_T, 1 - float(unexplained) if fit.explains else math.nan)

    def start(self, network: nn.Module, fresh: Sequence[str]) -> None:
        """Take means and deviations out of a last layer that an earlier run has trained, the reverse of `finish`."""
        random = {id(module) for name, module in network.named_modules() if name in fresh}
        for layer in classification_layers(network):
            if id(layer) in random or not self.means:
                continue
            mean_T, deviation_T = layer.bias.new_tensor(self.means), layer.bias.new_tensor(self.deviations)
            weight_TD = layer.weight.detach() / deviation_T[:, None]
            set_layer(layer, weight_TD, (layer.bias.detach() - mean_T) / deviation_T)

    def finish(self, network: nn.Module) -> None:
        """Fold means and deviations into the last layer, so that the network answers in the targets' own units."""
        if not self.means:
            return
        for layer in classification_layers(network):
            mean_T, deviation_T = layer.bias.new_tensor(self.means), layer.bias.new_tensor(self.deviations)
            bias_T = layer.bias.detach() * deviation_T + mean_T
            set_layer(layer, layer.weight.detach() * deviation_T[:, None], bias_T)

    def rows_per_output(self, labels: np.ndarray) -> np.ndarray:
        """Return all rows."""
        return np.full(len(self.labels), len(labels))

    def logit_size(self, logits_NC: np.ndarray) -> float:
        """Return the size of the numbers, at least 1: float32 has seven digits."""
        return max(1.0, float(np.abs(logits_NC).max()))

    def training_scores(self, logits_NC: np.ndarray) -> np.ndarray:
        """Return standardized numbers in the targets' own units."""
        scores_NT = self.scores(logits_NC)
        return scores_NT * np.array(self.deviations) + np.array(self.means) if self.means else scores_NT

    def check_judged(self, labels: np.ndarray, split: str) -> None:
        """Check that the numbers differ.

        Raises:
            InputError: naming the split.
        """
        for name, targets_N in zip(self.labels, labels.T if len(labels) else (), strict=False):
            if np.ptp(targets_N) == 0:
                raise InputError(
                    f"{split}: every row has {targets_N[0]:g} in {name!r}, and R² needs targets that differ; name "
                    f"other rows by --{split}"
                )

    def epoch_values(self, labels: np.ndarray, logits_NC: np.ndarray) -> dict[str, float]:
        """Return the metrics of logits of the training network; without a correlation where it predicts one number."""
        return {"pearson": 0.0, "spearman": 0.0} | super().epoch_values(labels, logits_NC)

    def values(self, labels: np.ndarray, scores_NC: np.ndarray) -> dict[str, float]:
        """Return the metrics of numbers, the means over several targets."""
        return regression.regression_metrics(labels, scores_NC)

    def intervals(self, labels: np.ndarray, scores_NC: np.ndarray, *, resamples: int) -> dict[str, Interval]:
        """Return the metrics with intervals by the bootstrap over rows."""
        return regression.regression_intervals(labels, scores_NC, resamples=resamples)

    def per_target(
        self, labels: np.ndarray, scores_NC: np.ndarray, *, resamples: int
    ) -> dict[str, dict[str, Interval]]:
        """Return the metrics of each of several targets."""
        if len(self.labels) == 1:
            return {}
        pairs = zip(self.labels, labels.T, scores_NC.T, strict=True)
        return {name: regression.regression_intervals(*numbers, resamples=resamples) for name, *numbers in pairs}

    def residuals(self, labels: np.ndarray, scores_NC: np.ndarray) -> list[dict[str, Any]]:
        """Return the errors by range of each target."""
        targets = zip(self.labels, labels.T, scores_NC.T, strict=True)
        return [asdict(each) for target in targets for each in residuals_of_target(*target)]

    def difference(self, labels: np.ndarray, scores_NC: np.ndarray, others_NC: np.ndarray) -> Interval:
        """Return the difference of R²."""
        return paired_scores(self.by_row(labels, scores_NC), self.by_row(labels, others_NC))

    def by_row(self, labels: np.ndarray, decided: np.ndarray) -> np.ndarray:
        """Return the contributions to R²."""
        return regression.r2_by_row(labels, decided)

    def further_differences(
        self, labels: np.ndarray, scores_NC: np.ndarray, others_NC: np.ndarray
    ) -> dict[str, Interval]:
        """Return the difference of Spearman's correlations, the mean over the targets, where all numbers vary."""
        if not all(np.ptp(numbers_NT, axis=0).all() for numbers_NT in (labels, scores_NC, others_NC)):
            return {}
        pair = (
            np.mean([regression.spearman_by_row(*pair) for pair in zip(labels.T, each_NT.T, strict=True)], axis=0)
            for each_NT in (scores_NC, others_NC)
        )
        return {"spearman": paired_scores(*pair)}

    def majority(self, labels: np.ndarray) -> np.ndarray:
        """Return the means."""
        return labels.mean(axis=0)

    def agreement(self, scores_NC: np.ndarray, others_NC: np.ndarray) -> float:
        """Return Pearson's correlation, the mean over the targets."""
        with np.errstate(invalid="ignore"):
            each = [np.corrcoef(*numbers)[0, 1] for numbers in zip(scores_NC.T, others_NC.T, strict=True)]
        return float(np.nan_to_num(each).mean())

    def constants(self, train: Dataset, rows: Dataset) -> dict[str, Baseline]:
        """Return the means and the medians."""
        targets_NT = labels_of(train)
        return {
            "mean": Baseline("mean", np.tile(targets_NT.mean(axis=0), (len(rows), 1))),
            "median": Baseline("median", np.tile(np.median(targets_NT, axis=0), (len(rows), 1))),
        }

    def linear_baseline(self, train: Dataset, rows: Dataset) -> Baseline:
        """Return ridge regression of each target on words or pixels."""
        kind, features, test, chosen, _ = shallow_features(train, rows)
        models = _ridges(features, labels_of(train)[chosen], PENALTIES)
        return Baseline(f"{kind}+ridge", _predictions(models, test))

    def decided(self, scores_NC: np.ndarray) -> np.ndarray:
        """Return the numbers."""
        return scores_NC

    def scores_of(self, predicted: Sequence[Any]) -> np.ndarray:
        """Return the numbers."""
        return np.array(list(predicted), dtype=np.float64).reshape(len(predicted), len(self.labels))

    def labels_of_names(self, names: Sequence[Any]) -> np.ndarray:
        """Return the numbers."""
        return self.scores_of(names)

    def predicted(self, scores_NC: np.ndarray) -> Sequence[Any]:
        """Return the numbers; of several targets a list for each row."""
        return scores_NC[:, 0].tolist() if len(self.labels) == 1 else scores_NC.tolist()

    def label_column(self, labels: np.ndarray) -> pa.Array:
        """Return the numbers."""
        return pa.array(self.predicted(labels), self.predicted_type)

    @property
    def predicted_type(self) -> pa.DataType:
        """Numbers, or lists of them."""
        return pa.float64() if len(self.labels) == 1 else pa.list_(pa.float64())

    def score_columns(self, scores_NC: np.ndarray) -> dict[str, pa.Array]:
        """Return predicted:<name> for each of several targets."""
        columns = zip(self.labels, scores_NC.T, strict=True) if len(self.labels) > 1 else ()
        return {f"predicted:{name}": pa.array(scores_N, pa.float64()) for name, scores_N in columns}


def _ridges(features: Any, targets_NT: np.ndarray, penalties: Sequence[float]) -> list[Any]:
    """Fit ridge regression to each target, with the penalty of the least leave-one-out errors."""
    from sklearn.linear_model import RidgeCV

    return [RidgeCV(penalties).fit(features, targets_N) for targets_N in targets_NT.T]


def _predictions(models: Sequence[Any], features: Any) -> np.ndarray:
    return np.stack([model.predict(features) for model in models], axis=1)
