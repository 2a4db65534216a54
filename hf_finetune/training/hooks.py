"""The one interface between the trainer and a technique: a hook, called at fixed points of training.

The trainer knows no technique by name. Each one (mixout, SAM, R-Drop, averages of the weights, ...) is a `Hook` in the
file of its implementation, and overrides the methods of the points that it needs.

Legend: B rows of a micro-batch, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn
from transformers import PreTrainedModel, TrainerCallback, TrainerState, TrainingArguments

from hf_finetune.data.inputs import EpochRows

Batch: TypeAlias = dict[str, Any]
"""A micro-batch: the model's inputs, and `labels`."""
Collate: TypeAlias = Callable[[dict[str, Any]], Batch]
SummedLoss: TypeAlias = Callable[[torch.Tensor, Any], torch.Tensor]
"""`(logits, targets) -> scalar`, the sum over rows. Logits are (B, C), or those of two heads, see
`models.modules.head_logits`; targets are labels, see `losses.targets.RowLosses`, or hold more; B is their length."""


class Hook:
    """What a technique does in training: methods in the order of their calls, all of which do nothing here."""

    passes = 1
    """How often a step sends each row through the model."""
    numbers_repeats = False
    """Whether a row drawn again in an epoch must be told from the first time, see `data.batching.number_repeats`."""

    def on_loader(self, rows: EpochRows, collate: Collate) -> tuple[EpochRows, Collate]:
        """Change how training rows become micro-batches, in the loader's own processes."""
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
        """Before an optimizer step's first micro-batch."""

    def on_batch(self, batch: Batch, state: TrainerState) -> Batch:
        """Change a micro-batch before it is counted and goes to the device."""
        return batch

    def on_inputs(self, model: PreTrainedModel, batch: Batch) -> Batch:
        """Change a micro-batch on the device, with gradients, each time that it goes through the model."""
        return batch

    def after_backward(self, model: nn.Module, repeat: Callable[[Batch, bool], None]) -> None:
        """Change a step's gradients, which are complete, before they are clipped.

        Args:
            repeat: sends a micro-batch through once more and adds its gradient; also told whether it is the last.
        """

    def before_update(self, model: nn.Module, state: TrainerState) -> None:
        """Change the clipped gradients."""

    def after_update(
        self, model: nn.Module, state: TrainerState, optimizer: torch.optim.Optimizer, *, overflowed: bool
    ) -> None:
        """Change the weights that the optimizer has just updated. The gradients are still there.

        Args:
            state: does not count this step yet.
            overflowed: float16 gradients were not finite, and the optimizer passed the step over.
        """

    def after_step(self, model: nn.Module, state: TrainerState) -> None:
        """After an optimizer step."""

    def after_epoch(self, model: nn.Module, state: TrainerState) -> None:
        """After an epoch, or the last step of a run that ends within one."""

    def on_validation(self, model: nn.Module, metrics_of: Callable[[str], dict[str, float]]) -> dict[str, float]:
        """Further metrics of the validation rows.

        Args:
            metrics_of: metrics of the model as it is when this is called, under a prefix.
        """
        return {}

    def on_save(self, model: nn.Module, state: TrainerState, checkpoint: Path) -> None:
        """Write what a resumed run needs into a checkpoint that is not sealed yet."""

    def after_training(self, model: nn.Module, state: TrainerState) -> None:
        """After the last step, with the best weights in the model."""


class HookEvents(TrainerCallback):
    """Hands the Trainer's own events on to the hooks.

    Args:
        hooks: in the order in which they are called.
    """

    def __init__(self, hooks: Sequence[Hook]) -> None:
        self.hooks = hooks

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **event: Any) -> None:
        """See `Hook.before_step`."""
        for hook in self.hooks:
            hook.before_step(event["model"], state)

    def on_pre_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: Any, **event: Any) -> None:
        """See `Hook.before_update`."""
        for hook in self.hooks:
            hook.before_update(event["model"], state)

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: Any, **event: Any) -> None:
        """See `Hook.after_update`."""
        model, optimizer = event["model"], event["optimizer"]
        overflowed = args.fp16 and bool(self.hooks) and not gradients_are_finite(model)
        for hook in self.hooks:
            hook.after_update(model, state, optimizer, overflowed=overflowed)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: Any, **event: Any) -> None:
        """See `Hook.after_step`."""
        for hook in self.hooks:
            hook.after_step(event["model"], state)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: Any, **event: Any) -> None:
        """See `Hook.after_epoch`."""
        for hook in self.hooks:
            hook.after_epoch(event["model"], state)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: Any, **event: Any) -> None:
        """See `Hook.after_training`."""
        for hook in self.hooks:
            hook.after_training(event["model"], state)


def gradients_are_finite(model: nn.Module) -> bool:
    """Whether all gradients are numbers: fused optimizers do not say what they passed over. One wait for the device."""
    finite = [parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None]
    return not finite or bool(torch.stack(finite).all())
