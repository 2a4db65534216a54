"""Gradual unfreezing: the head first, then one more layer at a time, from the top down.

https://arxiv.org/abs/1801.06146. Layers that wait do not require gradients: their backward pass is saved, the optimizer
passes over them (no momentum, no weight decay), their Adam state begins when they do, and the gradient's norm is that
of what trains. DistributedDataParallel is told by the Trainer to look for parameters without a gradient at every step
(`find_unused_parameters`), so they may change from step to step."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel, TrainerState

from hf_finetune.models.freezing import groups_from_the_top
from hf_finetune.training.hooks import Hook


class GradualUnfreezing(Hook):
    """Lets one more group of weights train every so many optimizer steps.

    Which groups train is told by the step alone, so that a run that was resumed does as one that was not.

    Args:
        model: the groups are its weights that train now, see `models.freezing.groups_from_the_top`.
        steps: optimizer steps from one group to the next; a fraction rounds up, group by group.
        fresh: modules that the checkpoint did not have; they train from the start.
    """

    def __init__(self, model: PreTrainedModel, *, steps: float, fresh: Sequence[str] = ()) -> None:
        self.groups: list[list[nn.Parameter]] = groups_from_the_top(model, fresh)
        self.steps = steps

    def trains(self, step: int) -> int:
        """How many groups train in the step that comes after `step` others."""
        return min(len(self.groups), 1 + int(step / self.steps))

    def work(self, steps: int) -> float:
        """Work of so many steps over that of as many in which all groups train.

        A third of a step is the forward pass; the rest goes back through the groups that train, which are taken to be
        alike except for the head, which costs nothing."""
        below = len(self.groups) - 1
        if below == 0:
            return 1.0
        return (1 + 2 * sum((self.trains(step) - 1) / below for step in range(steps)) / steps) / 3

    def switch(self, step: int) -> None:
        """Let train what does in that step, and nothing else."""
        count = self.trains(step)
        for number, group in enumerate(self.groups):
            for parameter in group:
                parameter.requires_grad_(number < count)

    def before_step(self, model: nn.Module, state: TrainerState) -> None:
        """See `switch`."""
        self.switch(state.global_step)

    def after_training(self, model: nn.Module, state: TrainerState) -> None:
        """What never had its turn stays as it was, and is not counted among what trained."""
        self.switch(max(0, state.global_step - 1))


def steps_between(every: float, steps_per_epoch: int) -> float:
    """Optimizer steps between two groups that are `every` epochs apart."""
    return max(1.0, every * steps_per_epoch)


def waiting(unfreezing: GradualUnfreezing, steps: int) -> int:
    """Weights whose turn does not come within a run of so many steps."""
    late = unfreezing.groups[unfreezing.trains(steps - 1) :]
    return sum(parameter.numel() for group in late for parameter in group)
