"""The trainer of a student, which learns from its teacher's logits and features beside the labels.

Legend: N training rows, B rows of a forward pass, C classes, D width.
"""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, TrainingArguments
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_finetune.augmentation.online import AugmentedRows
from hf_finetune.data.batching import StepBatches
from hf_finetune.data.inputs import EpochRows
from hf_finetune.distillation.feature_matching.recorder import FeatureRecorder
from hf_finetune.distillation.feature_matching.teacher_features import FeatureDistillation
from hf_finetune.distillation.loss import DistillationLoss, DistillationTargets
from hf_finetune.distillation.training_rows import (
    LOGITS,
    TEACHER,
    DistillationRows,
    TeacherColumns,
    collate_with_teacher,
)
from hf_finetune.training.hooks import Batch, Collate
from hf_finetune.training.setup import TrainingSetup
from hf_finetune.training.trainer import ClassifierTrainer

FEATURE_LOSSES = "feature_losses"
"""Name of the feature losses within the model that trains."""


@dataclass(frozen=True)
class Teaching:
    """What a student learns from its teacher."""

    logits: Any
    """The teacher's logits of the training rows; with online augmentation, a function of the views of an epoch."""
    features: FeatureDistillation | None = None
    """Comparison of features; None: none. It requires that both networks read the same tokens of a row: no packed
    batches, `LowResolution` or `RDrop`."""


class DistillationTrainer(ClassifierTrainer):
    """Trains a student on labels and on its teacher's logits and features.

    Args:
        model, args: see `ClassifierTrainer`.
        setup: its loss is a `DistillationLoss`. It has no `InputMixing`: the teacher reads no mixed rows.
        teaching: the teacher's part.
    """

    # The teacher reads one view of each row in an epoch.
    several_views = False

    def __init__(
        self, model: PreTrainedModel, args: TrainingArguments, setup: TrainingSetup, teaching: Teaching
    ) -> None:
        features = teaching.features
        if features is not None:
            assert isinstance(setup.loss, DistillationLoss), "it compares features"
            setup = replace(setup, loss=replace(setup.loss, feature_losses=features.losses))
        super().__init__(model, args, setup)
        self.teaching = teaching
        self.recorder: FeatureRecorder | None = None
        if features is not None:
            self.recorder = FeatureRecorder(model, features.required)
            # Part of the model while it trains: the optimizer, clipping, other processes and checkpoints then include
            # the weights.
            modules = nn.ModuleDict({str(i): module for i, module in features.losses.items()})
            model.add_module(FEATURE_LOSSES, modules.to(args.device))
            self._anchor = model.register_forward_hook(_anchor_feature_losses)

    def _training_rows(self, batches: StepBatches) -> tuple[EpochRows, Collate]:
        rows, collate = super()._training_rows(batches)
        logits, features = self.teaching.logits, self.teaching.features
        others: Any = {} if features is None else features.columns

        def columns_of(views: AugmentedRows) -> TeacherColumns:
            return {LOGITS: logits(views), **(others(views) if callable(others) else {})}

        online = isinstance(rows, AugmentedRows)
        assert online == callable(logits), "the teacher predicts what the student reads, rows or views"
        columns = columns_of if online else {LOGITS: logits, **others}
        return DistillationRows(rows, columns), partial(collate_with_teacher, collate)

    def batch_loss(self, model: nn.Module, batch: Batch, rows_in_step: torch.Tensor | int | None) -> torch.Tensor:
        """Compute the loss against the labels and the teacher's columns of the same rows."""
        student = {name: x for name, x in batch.items() if not name.startswith(TEACHER)}
        # From the step alone, so that a resumed run continues exactly.
        progress = self.state.global_step / max(self.state.max_steps - 1, 1)
        targets, features = DistillationTargets(batch["labels"], batch[LOGITS], progress), self.teaching.features
        with ExitStack() as stack:
            if features is not None and self.recorder is not None:
                teacher_features = features.of_teacher(batch)
                student_features = stack.enter_context(self.recorder.recording(student))
                targets = replace(targets, student_features=student_features, teacher_features=teacher_features)
            return super().batch_loss(model, {**student, "labels": targets}, rows_in_step)

    def train(self, resume_from_checkpoint: str | None = None) -> None:  # type: ignore[override]
        """Train as a classifier, then remove the feature losses from the model."""
        try:
            super().train(resume_from_checkpoint)
        finally:
            if self.recorder is not None:
                self.recorder.close()
                self._anchor.remove()
                delattr(self.model, FEATURE_LOSSES)


def _anchor_feature_losses(model: nn.Module, _: object, output: SequenceClassifierOutput) -> None:
    """Add 0 times the weights of the feature losses to the logits.

    These weights are used only after the forward pass: DistributedDataParallel would take them for unused, and not wait
    for their gradients.
    """
    if model.training:
        total: Any = sum(weight.sum() for weight in model.get_submodule(FEATURE_LOSSES).parameters())
        assert output.logits is not None
        output.logits = output.logits + 0 * total
