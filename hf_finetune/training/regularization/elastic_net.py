"""Elastic net by proximal steps, which set weights to exactly 0; and the resulting sparsity."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import TrainerState

from hf_finetune.errors import InputError
from hf_finetune.models.modules import classification_layers
from hf_finetune.training.hooks import Hook


def penalized(model: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Parameter]:
    """Return the penalized parameters: trainable ones whose names match.

    Args:
        model: the model as it trains, with its adapter.
        patterns: `fnmatch` patterns. Empty: the classification layer's weight without its bias.

    Raises:
        InputError: a pattern matches no trainable parameter.
    """
    if not patterns:
        weights = {layer.weight for layer in classification_layers(model)}
        return {name: p for name, p in model.named_parameters() if p in weights}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in trained):
            raise InputError(
                f"regularize.elastic_net.parameters: expected patterns of trainable weights (such as "
                f"{next(reversed(trained), 'none')}), got {pattern!r}, which matches none"
            )
    return {name: p for name, p in trained.items() if any(fnmatchcase(name, pattern) for pattern in patterns)}


@torch.no_grad()
def proximal_step(weight: torch.Tensor, *, rate: float, l1: float, l2: float) -> None:
    """Set w to sign(w) max(|w| - rate l1, 0) / (1 + rate l2), the proximal operator of rate (l1 |w| + l2 w^2 / 2).

    Zou and Hastie 2005; Parikh and Boyd 2014, "Proximal algorithms", section 6.5.3.

    Args:
        weight: any shape.
        rate: learning rate of the step.
    """
    weight.copy_(F.softshrink(weight, rate * l1)).div_(1 + rate * l2)


class ElasticNetSteps(Hook):
    """Takes a proximal step on some parameters after each optimizer step, at that step's learning rate.

    Args:
        parameters: see `penalized`. Without a table of `optim.vocabulary_adamw.VocabularyAdamW`, which holds a copy.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], *, l1: float, l2: float) -> None:
        self.parameters, self.l1, self.l2 = dict(parameters), l1, l2

    def after_update(
        self, model: nn.Module, state: TrainerState, optimizer: torch.optim.Optimizer, *, overflowed: bool
    ) -> None:
        """Take a proximal step, unless the optimizer skipped its own."""
        if overflowed:
            return
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        for parameter in self.parameters.values():
            # With gradual unfreezing the optimizer holds frozen parameters, too.
            if parameter.requires_grad and id(parameter) in rates:
                proximal_step(parameter, rate=float(rates[id(parameter)]), l1=self.l1, l2=self.l2)


def sparsity(parameters: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Count the weights that are exactly 0.

    Returns:
        `weights` and `zeros`, their numbers; `share` of zeros; and `parameters`, the share in each by name.
    """
    zeros = {name: int((p == 0).sum()) for name, p in parameters.items()}
    weights = sum(p.numel() for p in parameters.values())
    return {
        "weights": weights,
        "zeros": sum(zeros.values()),
        "share": round(sum(zeros.values()) / weights, 4),
        "parameters": {name: round(zeros[name] / p.numel(), 4) for name, p in parameters.items()},
    }
