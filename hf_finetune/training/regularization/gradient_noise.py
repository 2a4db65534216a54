"""Normal noise on the gradients, the less the later (arXiv:1511.06807)."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from transformers import TrainerState

from hf_finetune.training.hooks import Hook

# Apart from other things that are drawn from the run's seed.
STREAM = 1511


def noise_scale(step: int, *, eta: float, gamma: float) -> float:
    """Standard deviation at a step: the root of eta / (1 + step)^gamma.

    Args:
        step: optimizer steps taken before it.
    """
    return (eta / (1 + step) ** gamma) ** 0.5


class NoisyGradients(Hook):
    """Adds the noise to the gradients of every step, after they were clipped.

    The noise follows from the seed and the step alone: a run that was resumed draws what it would have drawn, and all
    processes draw the same, on top of the gradients they have shared. A row-sparse gradient (`nn.Embedding.sparse`)
    gets noise on the rows of the words of the step; a word that is not in it stays where it is.

    Args:
        eta: variance at the first step.
        gamma: how fast it falls.
        seed: of the run.
    """

    def __init__(self, *, eta: float, gamma: float, seed: int) -> None:
        self.eta, self.gamma, self.seed = eta, gamma, seed

    def before_update(self, model: nn.Module, state: TrainerState) -> None:
        """See the class."""
        generators: dict[torch.device, torch.Generator] = {}
        scale = noise_scale(state.global_step, eta=self.eta, gamma=self.gamma)
        words = np.random.SeedSequence((self.seed, state.global_step, STREAM)).generate_state(1, np.uint64)
        for parameter in model.parameters():
            if parameter.grad is None:
                continue
            if parameter.grad.is_sparse:
                parameter.grad = parameter.grad.coalesce()
            noisy = parameter.grad.values() if parameter.grad.is_sparse else parameter.grad
            if noisy.device not in generators:
                generators[noisy.device] = torch.Generator(noisy.device).manual_seed(int(words[0]) >> 1)
            noise = torch.empty_like(noisy).normal_(0.0, scale, generator=generators[noisy.device])
            noisy.add_(noise)
