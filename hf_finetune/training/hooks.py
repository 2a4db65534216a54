"""Hooks: how a technique takes part in the training loop.

A technique such as mixout, SAM, R-Drop or mixup is a `Hook` in the file of its implementation, and overrides the
methods that it needs. The trainer calls all hooks alike, in their order. By name it knows only three techniques, which
change what a checkpoint or an evaluation holds: PEFT adapters, weight averages and schedule-free optimizers.

Legend: B rows of a micro-batch, C classes.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn
from transformers import PreTrainedModel, TrainerCallback, TrainerState, TrainingArguments

from hf_finetune.data.inputs import EpochRows
from hf_finetune.training.gradients import gradients_are_finite

Batch: TypeAlias = dict[str, Any]
"""A micro-batch: the model's inputs and `labels`."""
Collate: TypeAlias = Callable[[dict[str, Any]], Batch]
SummedLoss: TypeAlias = Callable[[torch.Tensor, Any], torch.Tensor]
"""`(logits, targets) -> scalar`, the sum over rows. Logits are (B, C), or those of two heads, see
`models.modules.head_logits`. Targets are labels, see `losses.targets.RowLosses`, or an object of length B."""


class Hook:
    """A technique's part in training: methods in the order of their calls. By default all do nothing."""

    passes = 1
    """Forward passes of each row in a step."""
    numbers_repeats = False
    """Whether repeated draws of a row in an epoch get different indices, see `data.batching.number_repeats`."""

    def on_loader(self, rows: EpochRows, collate: Collate) -> tuple[EpochRows, Collate]:
        """Change how the loader's workers read training rows and collate them into micro-batches."""
        return rows, collate

    def on_loss(self, loss: SummedLoss) -> SummedLoss:
        """Change the loss of a micro-batch."""
        return loss

    def on_model(self, model: nn.Module) -> AbstractContextManager[None]:
        """Change the model while it trains."""
        return nullcontext()

    def on_resume(self, model: nn.Module, checkpoint: Path) -> None:
        """Read what `on_save` wrote."""

    def before_step(self, model: nn.Module, state: TrainerState) -> None:
        """Run before the first micro-batch of an optimizer step."""

    def on_batch(self, batch: Batch, state: TrainerState) -> Batch:
        """Change a micro-batch before it is counted and moved to the device."""
        return batch

    def on_inputs(self, model: PreTrainedModel, batch: Batch) -> Batch:
        """Change a micro-batch on the device before each forward pass. Gradients flow through the change."""
        return batch

    def after_backward(self, model: nn.Module, repeat: Callable[[Batch, bool], None]) -> None:
        """Change the complete gradients of a step before they are clipped.

        Args:
            repeat: runs forward and backward on a micro-batch again and adds its gradient. Its second argument says
                whether this is the step's last micro-batch.
        """

    def before_update(self, model: nn.Module, state: TrainerState) -> None:
        """Change the clipped gradients."""

    def after_update(
        self, model: nn.Module, state: TrainerState, optimizer: torch.optim.Optimizer, *, overflowed: bool
    ) -> None:
        """Change the weights after the optimizer's update. The gradients are still there.

        Args:
            state: does not count this step yet.
            overflowed: float16 gradients were not finite, and the optimizer skipped the step.
        """

    def after_step(self, model: nn.Module, state: TrainerState) -> None:
        """Run after an optimizer step."""

    def after_epoch(self, model: nn.Module, state: TrainerState) -> None:
        """Run after an epoch, or after the last step of a run that ends within one."""

    def on_validation(self, model: nn.Module, metrics_of: Callable[[str], dict[str, float]]) -> dict[str, float]:
        """Return further validation metrics.

        Args:
            metrics_of: scores the model with its current weights. Its argument is the prefix of the metrics' names.
        """
        return {}

    def on_save(self, model: nn.Module, state: TrainerState, checkpoint: Path) -> None:
        """Add to a checkpoint what a resumed run needs, before it is sealed."""

    def after_training(self, model: nn.Module, state: TrainerState) -> None:
        """Run after the last step, with the best weights in the model."""


class HookEvents(TrainerCallback):
    """Forwards the Trainer's events to the hooks, in their order."""

    def __init__(self, hooks: Sequence[Hook]) -> None:
        self.hooks = hooks

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **event: Any) -> None:
        """Call `Hook.before_step`."""
        for hook in self.hooks:
            hook.before_step(event["model"], state)

    def on_pre_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: Any, **event: Any) -> None:
        """Call `Hook.before_update`."""
        for hook in self.hooks:
            hook.before_update(event["model"], state)

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: Any, **event: Any) -> None:
        """Call `Hook.after_update`."""
        model, optimizer = event["model"], event["optimizer"]
        # Fused optimizers skip a step of infinite gradients without saying so.
        overflowed = args.fp16 and bool(self.hooks) and not gradients_are_finite(model)
        for hook in self.hooks:
            hook.after_update(model, state, optimizer, overflowed=overflowed)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: Any, **event: Any) -> None:
        """Call `Hook.after_step`."""
        for hook in self.hooks:
            hook.after_step(event["model"], state)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: Any, **event: Any) -> None:
        """Call `Hook.after_epoch`."""
        for hook in self.hooks:
            hook.after_epoch(event["model"], state)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: Any, **event: Any) -> None:
        """Call `Hook.after_training`."""
        for hook in self.hooks:
            hook.after_training(event["model"], state)
