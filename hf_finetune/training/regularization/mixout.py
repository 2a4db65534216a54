"""Mixout (arXiv:1909.11299): a training step replaces random weights by the pretrained ones.

It is dropout of the deviation from the pretrained weights U: each trained weight W becomes U with probability p, else
U + (W - U) / (1 - p), so that its mean is W. The stored weights do not change.
"""

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

# Separates these random numbers from others of the same seed.
STREAM = 1909


def pretrained_layers(model: PreTrainedModel, fresh: Sequence[str] = ()) -> list[nn.Linear]:
    """Return the trainable linear layers of the encoder that the checkpoint has.

    Args:
        fresh: modules that the checkpoint lacked: they have no pretrained weights.
    """
    new = {m for name in fresh for m in model.get_submodule(name).modules()}
    return [m for m in encoder(model).modules() if isinstance(m, nn.Linear) and m not in new and m.weight.requires_grad]


def mix(weight: torch.Tensor, pretrained: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Compute the weights of a forward pass: pretrained + (weight - pretrained) * mask, all of the same shape.

    Args:
        mask: 0 with probability p, else 1 / (1 - p).
    """
    return torch.addcmul(pretrained, weight - pretrained, mask)


class Mixout(Hook):
    """Mixes pretrained weights into layers while the model trains.

    Seed, step and layer alone decide the masks: all micro-batches and processes of a step have the same, and a resumed
    run continues exactly.

    Args:
        layers: layers that have their pretrained weights now.
        p: share of pretrained weights in a forward pass, at least 0 and below 1.
        seed: seed of the run.
    """

    def __init__(self, layers: Sequence[nn.Linear], *, p: float, seed: int) -> None:
        self.layers, self.p, self.seed = list(layers), p, seed
        self.step = 0
        """Optimizer steps taken."""
        self.pretrained = [layer.weight.detach().clone() for layer in self.layers]

    def weight(self, index: int) -> torch.Tensor:
        """Return the mixed weights of a layer for the present step, shape (out, in)."""
        weight, pretrained = self.layers[index].weight, self.pretrained[index]
        words = np.random.SeedSequence((self.seed, self.step, index, STREAM)).generate_state(1, np.uint64)
        generator = torch.Generator(weight.device).manual_seed(int(words[0]) >> 1)
        mask = random_mask(weight.numel(), self.p, weight.dtype, generator=generator)
        return mix(weight, pretrained, mask.view_as(weight))

    def before_step(self, model: nn.Module, state: TrainerState) -> None:
        """Switch to the masks of this step."""
        self.step = state.global_step

    @contextmanager
    def on_model(self, model: nn.Module) -> Iterator[None]:
        """Let the layers mix in training mode. In evaluation mode and after the block they use their own weights."""

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
