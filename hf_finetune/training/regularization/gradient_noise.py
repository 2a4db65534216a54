"""Normal noise on the gradients, which falls over the training (arXiv:1511.06807)."""

import numpy as np
import torch
from torch import nn
from transformers import TrainerState

from hf_finetune.training.hooks import Hook

# Separates these random numbers from others of the same seed.
STREAM = 1511


def noise_scale(step: int, *, eta: float, gamma: float) -> float:
    """Return the standard deviation of the noise: the root of eta / (1 + step)^gamma.

    Args:
        step: optimizer steps taken before this one.
    """
    return (eta / (1 + step) ** gamma) ** 0.5


class NoisyGradients(Hook):
    """Adds noise to the clipped gradients of each step.

    Seed and step alone decide the noise: a resumed run continues exactly, and all processes add the same noise to their
    shared gradients. A row-sparse gradient (`nn.Embedding.sparse`) gets noise in the rows of the step's words.

    Args:
        eta: variance at the first step.
        gamma: exponent of the decay of the variance.
        seed: seed of the run.
    """

    def __init__(self, *, eta: float, gamma: float, seed: int) -> None:
        self.eta, self.gamma, self.seed = eta, gamma, seed

    def before_update(self, model: nn.Module, state: TrainerState) -> None:
        """Add the noise."""
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
