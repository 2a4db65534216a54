"""Training a student: as any classifier, with what a teacher says and thinks of its rows beside their labels.

Legend: N training rows, B rows of a forward pass, C classes, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments
from transformers.modeling_outputs import ModelOutput

from hf_finetune.augmentation.online import AugmentedRows
from hf_finetune.distillation.feature_loss import FeatureDistillation
from hf_finetune.distillation.features import FeatureRecorder
from hf_finetune.distillation.loss import DistillationLoss, DistillationTargets
from hf_finetune.distillation.training_rows import (
    LOGITS,
    TEACHER,
    DistillationRows,
    DistillationViews,
    collate_with_teacher,
)
from hf_finetune.training.trainer import ClassifierTrainer

# Name of what compares the insides, within a model that trains.
COMPARING = "comparing"


class DistillationTrainer(ClassifierTrainer):
    """Trains a student on the labels of its rows and on what its teacher has of them.

    Args:
        model, args: see `ClassifierTrainer`.
        teacher: the teacher's logits of the training rows, in their order, see `DistillationRows`; with `augmentation`, what answers
            the views of an epoch, see `DistillationViews`.
        loss: of labels and teacher.
        insides: what of the student's inside is compared. None: nothing.
        fields: all others of `ClassifierTrainer`. Not `mix`: the teacher sees no mixed rows. With `insides` none that changes
            the tokens of a row from one network to the other (`unpadded`, `shrink`), and no `r_drop`.
    """

    # The teacher answers one view of each row in an epoch.
    several_views = False

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        *,
        teacher: Any,
        loss: DistillationLoss,
        insides: FeatureDistillation | None = None,
        **fields: Any,
    ) -> None:
        if insides is not None:
            loss = replace(loss, feature_losses=insides.losses)
        super().__init__(model, args, loss=loss, **fields)
        assert not self.mix, "the teacher sees no mixed rows"
        assert insides is None or not (self.unpadded or self.r_drop), "the two networks would see other rows"
        self.teacher, self.insides = teacher, insides
        self.watch: FeatureRecorder | None = None
        if insides is not None:
            self.watch = FeatureRecorder(model, insides.required, skip=insides.skip)
            # As a part of the model while it trains: optimiser, clipping, processes and checkpoints then know its weights.
            comparing = nn.ModuleDict({str(place): module for place, module in insides.losses.items()})
            model.add_module(COMPARING, comparing.to(args.device))
            self._anchor = model.register_forward_hook(_take_part)

    def _training_rows(self) -> DistillationRows | DistillationViews:
        rows = super()._training_rows()
        columns = {} if self.insides is None else self.insides.columns
        if isinstance(rows, AugmentedRows):
            assert callable(self.teacher), "the teacher has seen the rows as they are"
            teacher = self.teacher
            return DistillationViews(
                rows, lambda views: {LOGITS: teacher(views), **(columns(views) if callable(columns) else {})}
            )
        assert not callable(self.teacher), "the teacher answers views, and the rows have none"
        assert isinstance(columns, Mapping)
        return DistillationRows(rows, {LOGITS: self.teacher, **columns})

    def _training_collate(self) -> Callable[[dict[str, list]], dict[str, Any]]:
        return partial(collate_with_teacher, super()._training_collate())

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """As the classifier's; the loss gets the labels with what the teacher has of the same rows."""
        student = {name: x for name, x in inputs.items() if not name.startswith(TEACHER)}
        # By the step alone, so that a run that was resumed does as one that was not.
        progress = self.state.global_step / max(self.state.max_steps - 1, 1)
        taught = DistillationTargets(inputs["labels"], inputs[LOGITS], progress)
        with ExitStack() as stack:
            if self.insides is not None and self.watch is not None:
                with self.insides.timer:
                    theirs = self.insides.teacher(inputs)
                inside = stack.enter_context(self.watch.recording(student))
                taught = replace(taught, student_features=inside, teacher_features=theirs)
            return super().compute_loss(model, {**student, "labels": taught}, return_outputs, num_items_in_batch)

    def train(self, resume_from_checkpoint: str | None = None) -> None:
        """As the classifier's; what compares the insides is no part of the model after it."""
        try:
            super().train(resume_from_checkpoint)
        finally:
            if self.watch is not None:
                self.watch.close()
                self._anchor.remove()
                delattr(self.model, COMPARING)


def _take_part(model: nn.Module, _: object, output: ModelOutput) -> None:
    """Let the logits depend, by 0, on the weights that compare: they are used after the forward pass alone, and processes that
    share gradients would hold such weights for unused, and wait for no gradient of theirs."""
    if model.training:
        weights = model.get_submodule(COMPARING).parameters()
        output.logits = output.logits + 0 * sum(weight.sum() for weight in weights)
