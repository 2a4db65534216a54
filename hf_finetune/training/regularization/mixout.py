"""Mixout: in training, weights are the pretrained ones again here and there (arXiv:1909.11299).

Dropout sets activations to 0; mixout sets weights to where they came from. With W trained and U pretrained, each weight
is U with probability p and U + (W - U) / (1 - p) else, so that on average it is W. In other words, dropout of the
deviation from the pretrained weights. The weights themselves, and what is saved, stay plain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel, TrainerState

from hf_finetune.models.kernels.dropout import random_mask
from hf_finetune.models.modules import encoder
from hf_finetune.training.hooks import Hook

# Apart from other things that are drawn from the run's seed.
STREAM = 1909


def pretrained_layers(model: PreTrainedModel, fresh: Sequence[str] = ()) -> list[nn.Linear]:
    """Linear layers of the encoder that came with the checkpoint and train.

    Args:
        fresh: modules that the checkpoint did not have: they have nothing to go back to.
    """
    new = {m for name in fresh for m in model.get_submodule(name).modules()}
    return [m for m in encoder(model).modules() if isinstance(m, nn.Linear) and m not in new and m.weight.requires_grad]


def mix(weight: torch.Tensor, pretrained: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The weights of a forward pass: pretrained + (weight - pretrained) * mask.

    Args:
        weight: any shape, trained.
        pretrained: same shape.
        mask: same shape, 0 with probability p and else 1 / (1 - p).
    """
    return torch.addcmul(pretrained, weight - pretrained, mask)


class Mixout(Hook):
    """Mixes pretrained weights into the given layers while the model trains.

    Masks follow from the seed, the step and the layer: every micro-batch and every process of a step has the same, and
    a run that was resumed draws what it would have drawn.

    Args:
        layers: their weights at this moment count as pretrained.
        p: share of the weights that are pretrained in a forward pass, at least 0 and below 1.
        seed: of the run.
    """

    def __init__(self, layers: Sequence[nn.Linear], *, p: float, seed: int) -> None:
        self.layers, self.p, self.seed = list(layers), p, seed
        self.step = 0
        """Optimizer steps taken."""
        self.pretrained = [layer.weight.detach().clone() for layer in self.layers]

    def weight(self, index: int) -> torch.Tensor:
        """Weights of the layer of this index for the present step, shape (out, in)."""
        weight, pretrained = self.layers[index].weight, self.pretrained[index]
        words = np.random.SeedSequence((self.seed, self.step, index, STREAM)).generate_state(1, np.uint64)
        generator = torch.Generator(weight.device).manual_seed(int(words[0]) >> 1)
        mask = random_mask(weight.numel(), self.p, weight.dtype, generator=generator)
        return mix(weight, pretrained, mask.view_as(weight))

    def before_step(self, model: nn.Module, state: TrainerState) -> None:
        """Draw other masks."""
        self.step = state.global_step

    @contextmanager
    def on_model(self, model: nn.Module) -> Iterator[None]:
        """Within it the layers mix in training mode; after it, and in evaluation mode, they are as ever."""

        def mixing(index: int, layer: nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
            def forward(x: torch.Tensor) -> torch.Tensor:
                weight = self.weight(index) if layer.training else layer.weight
                return F.linear(x, weight, layer.bias)

            return forward

        layers: list[Any] = list(self.layers)
        for index, layer in enumerate(layers):
            layer.forward = mixing(index, layer)
        try:
            yield
        finally:
            for layer in layers:
                del layer.forward
