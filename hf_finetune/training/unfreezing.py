"""Gradual unfreezing (https://arxiv.org/abs/1801.06146): the head first, then one more layer at a time, from the top.

Frozen layers do not require gradients: they save their backward pass, the optimizer skips them (no momentum, no weight
decay), their Adam state starts when they do, and they do not count in the gradient norm. The Trainer makes
DistributedDataParallel look for parameters without a gradient at each step (`find_unused_parameters`), so they may
change from step to step."""

from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel, TrainerState

from hf_finetune.models.freezing import groups_from_the_top
from hf_finetune.training.hooks import Hook


class GradualUnfreezing(Hook):
    """Unfreezes one more group of weights every `steps` optimizer steps.

    The step number alone decides which groups train, so that a resumed run continues exactly.

    Args:
        model: its trainable weights form the groups, see `models.freezing.groups_from_the_top`.
        steps: optimizer steps from one group to the next; fractions round up, group by group.
        fresh: modules that the checkpoint lacked; they train from the start.
    """

    def __init__(self, model: PreTrainedModel, *, steps: float, fresh: Sequence[str] = ()) -> None:
        self.groups: list[list[nn.Parameter]] = groups_from_the_top(model, fresh)
        self.steps = steps

    def trains(self, step: int) -> int:
        """Return how many groups train in the step after `step` others."""
        return min(len(self.groups), 1 + int(step / self.steps))

    def work(self, steps: int) -> float:
        """Return the work of `steps` steps relative to steps that train all groups.

        A third of a step is the forward pass. The backward pass costs the same in each group below the head, and
        nothing in the head."""
        below = len(self.groups) - 1
        if below == 0:
            return 1.0
        return (1 + 2 * sum((self.trains(step) - 1) / below for step in range(steps)) / steps) / 3

    def switch(self, step: int) -> None:
        """Unfreeze the groups that train in the step after `step` others, and freeze the rest."""
        count = self.trains(step)
        for number, group in enumerate(self.groups):
            for parameter in group:
                parameter.requires_grad_(number < count)

    def before_step(self, model: nn.Module, state: TrainerState) -> None:
        """Unfreeze the groups of this step."""
        self.switch(state.global_step)

    def after_training(self, model: nn.Module, state: TrainerState) -> None:
        """Restore the groups of the last step: groups that never trained do not count as trained."""
        self.switch(max(0, state.global_step - 1))


def untrained_weights(unfreezing: GradualUnfreezing, steps: int) -> int:
    """Count the weights that a run of so many steps never trains."""
    frozen = unfreezing.groups[unfreezing.trains(steps - 1) :]
    return sum(parameter.numel() for group in frozen for parameter in group)
