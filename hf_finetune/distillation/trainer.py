"""Training a student: as any classifier, with what a teacher says and thinks of its rows beside their labels.

Legend: N training rows, B rows of a forward pass, C classes, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
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
from hf_finetune.distillation.features.recorder import FeatureRecorder
from hf_finetune.distillation.features.teacher_features import FeatureDistillation
from hf_finetune.distillation.loss import DistillationLoss, DistillationTargets
from hf_finetune.distillation.training_rows import (
    LOGITS,
    TEACHER,
    DistillationRows,
    DistillationViews,
    collate_with_teacher,
)
from hf_finetune.training.hooks import Batch, Collate
from hf_finetune.training.setup import TrainingSetup
from hf_finetune.training.trainer import ClassifierTrainer

# Name of what compares features, within a model that trains.
COMPARING = "comparing"


@dataclass(frozen=True)
class Teaching:
    """What a student learns from beside the labels of its rows."""

    logits: Any
    """The teacher's, of the training rows in their order, see `DistillationRows`; with online augmentation, what
    computes them of the views of an epoch, see `DistillationViews`."""
    features: FeatureDistillation | None = None
    """How features are compared. None: not at all. Then nothing may change the tokens of a row from one network to the
    other (packed batches, `LowResolution`, `RDrop`)."""


class DistillationTrainer(ClassifierTrainer):
    """Trains a student on the labels of its rows and on what its teacher has of them.

    Args:
        model, args: see `ClassifierTrainer`.
        setup: its loss is a `DistillationLoss`. It has no `InputMixing`: the teacher sees no mixed rows.
        teaching: the teacher's part.
    """

    # The teacher sees one view of each row in an epoch.
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
            # As a part of the model while it trains: optimizer, clipping, processes and checkpoints then know its
            # weights.
            comparing = nn.ModuleDict({str(place): module for place, module in features.losses.items()})
            model.add_module(COMPARING, comparing.to(args.device))
            self._anchor = model.register_forward_hook(_take_part)

    def _training_rows(self, batches: StepBatches) -> tuple[EpochRows, Collate]:
        rows, collate = super()._training_rows(batches)
        collate, logits = partial(collate_with_teacher, collate), self.teaching.logits
        columns = {} if self.teaching.features is None else self.teaching.features.columns
        if isinstance(rows, AugmentedRows):
            assert callable(logits), "the teacher has seen the rows as they are"
            return DistillationViews(
                rows, lambda views: {LOGITS: logits(views), **(columns(views) if callable(columns) else {})}
            ), collate
        assert not callable(logits), "the teacher sees views, and the rows have none"
        assert isinstance(columns, Mapping)
        return DistillationRows(rows, {LOGITS: logits, **columns}), collate

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
        """As the classifier's; what compares features is no part of the model after it."""
        try:
            super().train(resume_from_checkpoint)
        finally:
            if self.recorder is not None:
                self.recorder.close()
                self._anchor.remove()
                delattr(self.model, COMPARING)


def _take_part(model: nn.Module, _: object, output: SequenceClassifierOutput) -> None:
    """Let the logits depend, by 0, on the weights that compare: they are used after the forward pass alone, and
    processes that share gradients would hold such weights for unused, and wait for no gradient of theirs."""
    if model.training:
        total: Any = sum(weight.sum() for weight in model.get_submodule(COMPARING).parameters())
        assert output.logits is not None
        output.logits = output.logits + 0 * total
