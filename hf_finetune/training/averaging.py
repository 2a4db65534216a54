"""Running averages of the weights over the steps of a run.

Averaged are the parameters that train; what stays frozen, BatchNorm's statistics among it, is the same in all of them,
so nothing has to be estimated anew. Each average is one more copy of the trained weights in memory, and one in each
checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import TrainerState

from hf_finetune.training.hooks import Hook
from hf_finetune.training.random_state import RandomState

FILE = "averages.safetensors"
Weights = Mapping[str, torch.Tensor]


class Ema:
    """Exponential moving average: the average keeps `decay` of itself at each step.

    At step t it keeps min(decay, (1 + t) / (10 + t)): less at first, when there is little to remember.

    Args:
        decay: above 0 and below 1.
    """

    name, every = "ema", "step"

    def __init__(self, decay: float) -> None:
        self.decay = decay

    def share(self, count: int, step: int, max_steps: int) -> float:
        """Weight of the present weights beside the average of `count` earlier ones."""
        return 1 - min(self.decay, (2 + count) / (11 + count))


class Tail:
    """Plain mean over the last steps of a run, stochastic weight averaging (arXiv:1803.05407; arXiv:2212.05956 for
    tails).

    Args:
        fraction: share of all optimizer steps; the last one is always in it.
        every: average the weights after each of these steps, or after those alone that end an epoch.
    """

    name = "tail"

    def __init__(self, fraction: float, every: Literal["step", "epoch"]) -> None:
        self.fraction, self.every = fraction, every

    def share(self, count: int, step: int, max_steps: int) -> float | None:
        """See `Ema.share`; None: this step is not averaged."""
        return 1 / (1 + count) if step >= max_steps or step > (1 - self.fraction) * max_steps else None


class Averages(Hook):
    """Keeps the averages up to date, and saves and restores them with each checkpoint.

    Reads the weights themselves after each step: `optim.vocabulary_adamw.VocabularyAdamW` has written its
    rows into the table by then.

    Args:
        kinds: what to keep.
    """

    def __init__(self, *kinds: Ema | Tail) -> None:
        self.kinds: dict[str, Ema | Tail] = {kind.name: kind for kind in kinds}
        self.means: dict[str, dict[str, torch.Tensor]] = {name: {} for name in self.kinds}
        self.counts: dict[str, int] = dict.fromkeys(self.kinds, 0)

    def begun(self) -> dict[str, Weights]:
        """The averages that hold any weights yet, by name."""
        return {name: self.means[name] for name in self.kinds if self.counts[name]}

    def before_step(self, model: nn.Module, state: TrainerState) -> None:
        """Begin the averages where the weights are; what is unfrozen later was constant until then, its average as
        well."""
        for name, kind in self.kinds.items():
            if self.counts[name] or kind.share(0, state.global_step + 1, state.max_steps) is not None:
                means = self.means[name]
                for key, parameter in model.named_parameters():
                    if parameter.requires_grad and key not in means:
                        means[key] = parameter.detach().clone(memory_format=torch.contiguous_format)

    def after_step(self, model: nn.Module, state: TrainerState) -> None:
        """Take in the weights."""
        self._update(model, state, "step")

    def after_epoch(self, model: nn.Module, state: TrainerState) -> None:
        """Take in the weights."""
        self._update(model, state, "epoch")

    @torch.no_grad()
    def _update(self, model: nn.Module, state: TrainerState, when: Literal["step", "epoch"]) -> None:
        for name, kind in self.kinds.items():
            share = kind.share(self.counts[name], state.global_step, state.max_steps)
            if kind.every != when or share is None:
                continue
            means = self.means[name]
            now = dict(model.named_parameters())
            torch._foreach_lerp_(list(means.values()), [now[key] for key in means], share)
            self.counts[name] += 1

    def on_validation(self, model: nn.Module, metrics_of: Callable[[str], dict[str, float]]) -> dict[str, float]:
        """Metrics of the averages. Training's random numbers stay as they are."""
        random_state = RandomState(_device(model))
        metrics: dict[str, float] = {}
        for name, weights in self.begun().items():
            with swapped(model, weights):
                metrics |= metrics_of(name)
        random_state.restore()
        return metrics

    def on_save(self, model: nn.Module, state: TrainerState, checkpoint: Path) -> None:
        """Write the averages."""
        tensors = {f"{name}.{key}": mean for name, means in self.means.items() for key, mean in means.items()}
        save_file(tensors, checkpoint / FILE, metadata={name: str(count) for name, count in self.counts.items()})

    def on_resume(self, model: nn.Module, checkpoint: Path) -> None:
        """Go on with the averages of a checkpoint."""
        with safe_open(checkpoint / FILE, framework="pt", device=str(_device(model))) as file:
            counts = file.metadata() or {}
            for name in self.kinds:
                self.counts[name] = int(counts[name])
                self.means[name] = {
                    key.removeprefix(f"{name}."): file.get_tensor(key)
                    for key in file.keys()  # noqa: SIM118 (not a mapping)
                    if key.startswith(f"{name}.")
                }


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


@torch.no_grad()
def put_in(model: nn.Module, weights: Weights) -> None:
    """Give the model these weights, by their names in `named_parameters`; all others stay."""
    parameters = dict(model.named_parameters())
    for name, value in weights.items():
        parameters[name].copy_(value)


@contextmanager
def swapped(model: nn.Module, weights: Weights) -> Iterator[None]:
    """Inside, the model has these weights; after it those it had, to the bit. Between optimizer steps only."""
    parameters = dict(model.named_parameters())
    before = {name: parameters[name].detach().clone() for name in weights}
    put_in(model, weights)
    try:
        yield
    finally:
        put_in(model, before)
