"""Greedy soup (arXiv:2203.05482) over the epochs of one run: their weights are averaged as long as validation gains by
it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerState

from hf_finetune.training.hooks import Hook

FOLDER = "soup"


@dataclass(frozen=True)
class Candidate:
    """Weights that a run could keep."""

    weights: str
    """checkpoint (the best epoch's), ema, tail or soup."""
    steps: tuple[int, ...]
    """Optimizer steps after which they stood, of a soup in the order in which it took them; of a running average the
    last."""
    metric: float
    """On the validation rows."""

    @property
    def step(self) -> int:
        """How far the run had come: a soup takes its epochs best first, not in the order of time."""
        return max(self.steps)

    @property
    def is_average(self) -> bool:
        """Whether these are not the weights of one step: a soup of one epoch is that epoch's checkpoint."""
        return self.weights in ("ema", "tail") or len(self.steps) > 1

    def to_dict(self, metric: str) -> dict[str, Any]:
        """As result.json has it, the value under the metric's name."""
        return {"weights": self.weights, "steps": list(self.steps), metric: self.metric}


def best_of(candidates: Sequence[Candidate], *, greater_is_better: bool) -> Candidate:
    """The candidate with the best metric; of equals the first that is an average: one was asked for."""
    sign = 1 if greater_is_better else -1
    return max(candidates, key=lambda candidate: (sign * candidate.metric, candidate.is_average))


class Soup(Hook):
    """Weights of a run's scored epochs, kept beside its checkpoints: those that train, without the optimizer's state.

    Args:
        checkpoints: the folder of the run's checkpoints.
    """

    def __init__(self, checkpoints: Path) -> None:
        self.folder = checkpoints / FOLDER

    def on_save(self, model: nn.Module, state: TrainerState, checkpoint: Path) -> None:
        """Keep weights that validation has scored."""
        step = state.global_step
        if any(line["step"] == step and any(name.startswith("eval_") for name in line) for line in state.log_history):
            self.folder.mkdir(exist_ok=True)
            weights = {n: p.detach().contiguous() for n, p in model.named_parameters() if p.requires_grad}
            save_file(weights, self._path(step))

    def cook(
        self,
        scored: Mapping[int, float],
        score: Callable[[Mapping[str, torch.Tensor]], float],
        *,
        greater_is_better: bool,
    ) -> tuple[Candidate, dict[str, torch.Tensor]]:
        """Begin with the best epoch; add each next best one to the average unless validation falls by it.

        Args:
            scored: validation metric by step; of equals the earlier goes first.
            score: validation metric of averaged weights; called once for each epoch but the best.

        Returns:
            The soup and its weights by name, on the CPU.
        """
        sign = 1 if greater_is_better else -1
        best, *others = sorted(scored, key=lambda step: (-sign * scored[step], step))
        # In float64, so that the order in which they are added leaves no trace.
        total, steps, metric = self._load(best), [best], scored[best]
        for step in others:
            more = {name: value + total[name] for name, value in self._load(step).items()}
            found = score(_mean(more, len(steps) + 1))
            if sign * found >= sign * metric:
                total, metric = more, found
                steps.append(step)
        return Candidate("soup", tuple(steps), metric), _mean(total, len(steps))

    def _load(self, step: int) -> dict[str, torch.Tensor]:
        return {name: value.double() for name, value in load_file(self._path(step)).items()}

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step}.safetensors"


def ingredients(checkpoints: Path, step: int) -> list[Path]:
    """Files of a run's soup up to `step`."""
    files = (checkpoints / FOLDER).glob("step-*.safetensors")
    return sorted(f for f in files if int(f.stem.removeprefix("step-")) <= step)


def _mean(total: Mapping[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
    return {name: (value / count).float() for name, value in total.items()}
