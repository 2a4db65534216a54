"""Greedy soup (arXiv:2203.05482) of the epochs of one run: an epoch joins the average unless validation falls."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerState

from hf_finetune.training.hooks import Hook
from hf_finetune.utils.files import atomic_file

FOLDER = "soup"


@dataclass(frozen=True)
class Candidate:
    """Weights that a run could end with."""

    weights: str
    """checkpoint (the best epoch), ema, tail, soup, or runs (with those of other runs)."""
    steps: tuple[int, ...]
    """Optimizer steps after which the weights were taken: a soup's in the order of joining; a running average's last
    one."""
    metric: float
    """Validation metric."""

    @property
    def step(self) -> int:
        """Latest of the steps. A soup takes the best epoch first, not the earliest."""
        return max(self.steps)

    @property
    def is_average(self) -> bool:
        """Whether the weights are those of several steps. A soup of one epoch is that epoch's checkpoint."""
        return self.weights in ("ema", "tail", "runs") or len(self.steps) > 1

    def to_dict(self, metric: str) -> dict[str, Any]:
        """Return the candidate as result.json stores it, with the value under the metric's name."""
        return {"weights": self.weights, "steps": list(self.steps), metric: self.metric}


def best_of(candidates: Sequence[Candidate], *, greater_is_better: bool) -> Candidate:
    """Return the candidate with the best metric. An average wins ties, because the user requested one."""
    sign = 1 if greater_is_better else -1
    return max(candidates, key=lambda candidate: (sign * candidate.metric, candidate.is_average))


class Soup(Hook):
    """Saves the trained weights of each scored epoch beside the checkpoints, without the optimizer's state.

    Args:
        checkpoints: folder of the run's checkpoints.
    """

    def __init__(self, checkpoints: Path) -> None:
        self.folder = checkpoints / FOLDER

    def on_save(self, model: nn.Module, state: TrainerState, checkpoint: Path) -> None:
        """Save the weights if validation has scored them."""
        step = state.global_step
        if any(line["step"] == step and any(name.startswith("eval_") for name in line) for line in state.log_history):
            weights = {n: p.detach().contiguous() for n, p in model.named_parameters() if p.requires_grad}
            with atomic_file(self._path(step)) as temporary:
                save_file(weights, temporary)

    def cook(
        self,
        scores: Mapping[int, float],
        score: Callable[[Mapping[str, torch.Tensor]], float],
        *,
        greater_is_better: bool,
    ) -> tuple[Candidate, dict[str, torch.Tensor]]:
        """Start with the best epoch; add each next best one to the average unless the validation metric falls.

        Args:
            scores: validation metric by step. Among equals the earlier comes first.
            score: computes the validation metric of averaged weights; called once for each epoch but the best.

        Returns:
            The soup, and its weights by name, on the CPU.
        """
        sign = 1 if greater_is_better else -1
        best, *others = sorted(scores, key=lambda step: (-sign * scores[step], step))
        # Summed in float64, so that the order of adding does not matter.
        total, steps, metric = self._load(best), [best], scores[best]
        for step in others:
            larger = {name: value + total[name] for name, value in self._load(step).items()}
            metric_of_larger = score(_mean(larger, len(steps) + 1))
            if sign * metric_of_larger >= sign * metric:
                total, metric = larger, metric_of_larger
                steps.append(step)
        return Candidate("soup", tuple(steps), metric), _mean(total, len(steps))

    def _load(self, step: int) -> dict[str, torch.Tensor]:
        return {name: value.double() for name, value in load_file(self._path(step)).items()}

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step}.safetensors"


def ingredients(checkpoints: Path, step: int) -> list[Path]:
    """Return the files of a run's soup up to `step`."""
    files = (checkpoints / FOLDER).glob("step-*.safetensors")
    return sorted(f for f in files if int(f.stem.removeprefix("step-")) <= step)


def _mean(total: Mapping[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
    return {name: (value / count).float() for name, value in total.items()}
