"""Fold a temperature into the classification layer, so that the saved model's probabilities are calibrated.

Dividing all logits by one number changes no predicted class (temperature scaling, arXiv:1706.04599). The number is
fitted on rows that trained nothing: the validation rows, or with folds all rows, predicted out of fold. It is folded
in if a paired test on these rows finds a lower log loss: a model can be over-confident on a few rows by chance.

Legend: N rows, C classes, R repeats of the folds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_finetune.evaluation.intervals import Interval
from hf_finetune.models.modules import classification_layers
from hf_finetune.pipeline.context import Run
from hf_finetune.pipeline.out_of_fold import OutOfFold
from hf_finetune.tasks.base import Task
from hf_finetune.training.warm_start import FittedHead

SHOWN = ("log_loss", "ece")


@dataclass(frozen=True)
class Temperature:
    """What the log loss of rows that trained nothing says of a network's logits."""

    fitted: float
    """The divisor of the logits with the least log loss."""
    rows: int
    """Rows that it was fitted on."""
    gain: Interval
    """By how much it lowers their log loss, in nats."""
    divisors_N: np.ndarray | None = None
    """By which the out-of-fold logits of each row were divided, see `calibrated`. None: no folds."""

    @property
    def is_folded(self) -> bool:
        """Whether the network's logits are divided by it."""
        return self.gain.low > 0

    @property
    def divisor(self) -> float:
        """By which the network's logits are divided."""
        return self.fitted if self.is_folded else 1.0

    def to_dict(self, task: Task, labels: Any, logits_NC: np.ndarray, *, is_test: bool) -> dict[str, Any]:
        """Return the section of result.json, with log loss and calibration of judged rows before and after.

        Args:
            logits_NC: of the finished network.
            is_test: whether the judged rows are those of the test split; else the temperature was fitted on them.
        """
        section: dict[str, Any] = {
            "temperature": round(self.fitted, 4),
            "rows": self.rows,
            # Of their log loss, in nats.
            "gain": self.gain.to_dict(),
            "folded": self.is_folded,
        }
        if not self.is_folded:
            return section
        divisors = self.divisor if is_test or self.divisors_N is None else self.divisors_N[:, None]
        for name, scores_NC in (("before", task.scores(logits_NC * divisors)), ("after", task.scores(logits_NC))):
            values = task.values(labels, scores_NC)
            section[name] = {metric: round(values[metric], 4) for metric in SHOWN if metric in values}
        return section


def fits_temperature(run: Run) -> bool:
    """Whether a temperature is fitted for a run's network."""
    return run.recipe.evaluate.fold_temperature and run.data.task.rescales


def fit_temperature(task: Task, labels: Any, logits_NC: np.ndarray) -> Temperature:
    """Fit a temperature to rows that trained nothing."""
    fitted = _best(task, labels, logits_NC)
    return Temperature(fitted, len(logits_NC), _gain(task, labels, logits_NC / fitted, logits_NC))


def calibrated(task: Task, predicted: OutOfFold) -> tuple[OutOfFold, Temperature]:
    """Return the out-of-fold predictions with calibrated logits, and the temperature of the network of all rows.

    The logits of a fold are divided by the temperature of the other folds, so that they estimate what the network of
    all rows does with rows that are new to it.
    """
    labels, logits_RNC, divisors_RN = predicted.labels, predicted.logits_RNC, np.ones(predicted.fold_RN.shape)
    for divisors_N, logits_NC, fold_N in zip(divisors_RN, logits_RNC, predicted.fold_RN, strict=True):
        for fold in np.unique(fold_N):
            others_N = fold_N != fold
            divisors_N[~others_N] = _best(task, labels[others_N], logits_NC[others_N])
    divided_RNC = (logits_RNC / divisors_RN[..., None]).astype(np.float32)
    fitted = _best(task, np.tile(labels, len(logits_RNC)), np.concatenate(logits_RNC))
    gain = _gain(task, labels, divided_RNC[0], logits_RNC[0])
    temperature = Temperature(fitted, len(labels), gain, divisors_RN[0])
    return (replace(predicted, logits_RNC=divided_RNC) if temperature.is_folded else predicted), temperature


def _best(task: Task, labels: Any, logits_NC: np.ndarray) -> float:
    found = task.temperature(labels, logits_NC)
    assert found is not None, "the task rescales its logits"
    return found


def _gain(task: Task, labels: Any, divided_NC: np.ndarray, logits_NC: np.ndarray) -> Interval:
    gain = task.log_loss_gain(labels, task.scores(divided_NC), task.scores(logits_NC))
    assert gain is not None, "the task rescales its logits"
    return gain


@torch.no_grad()
def fold(temperature: Temperature, network: nn.Module) -> None:
    """Divide the weights of the network's classification layers, and so its logits, if it is folded."""
    for layer in classification_layers(network):
        for parameter in layer.parameters():
            parameter.div_(temperature.divisor)


def trained_heads(network: nn.Module, temperature: Temperature | None, explained: float) -> tuple[FittedHead, ...]:
    """Return the classification layers as they were trained, without the temperature, to train them further."""
    scale = 1.0 if temperature is None else temperature.divisor

    def trained(parameter: torch.Tensor) -> torch.Tensor:
        return scale * parameter.detach().float().cpu()

    layers = classification_layers(network)
    return tuple(FittedHead(trained(layer.weight), trained(layer.bias), explained) for layer in layers)
