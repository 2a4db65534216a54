"""Training a student: as any classifier, with what a teacher says and thinks of its rows beside their labels.

Legend: N training rows, B rows of a forward pass, C classes, D width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments
from transformers.modeling_outputs import ModelOutput

from hf_finetune.augmentation.online import AugmentedRows
from hf_finetune.distillation.config import DistillationKind, LogitKind
from hf_finetune.distillation.features import FeatureRecorder, Features, RequiredFeatures
from hf_finetune.distillation.taught_rows import (
    COLUMN,
    TAUGHT,
    Embed,
    TaughtRows,
    TaughtViews,
    no_embeddings,
    with_teacher,
)
from hf_finetune.distillation.weight_schedules import Number, ends_of, settled
from hf_finetune.training.losses.classification import WeightedLoss
from hf_finetune.training.trainer import ClassifierTrainer

# Name of what compares the insides, within a model that trains.
COMPARING = "comparing"


@dataclass(frozen=True)
class Taught:
    """The labels of a micro-batch's rows, and what the teacher says of them."""

    labels_B: torch.Tensor
    """Class indices; -1 of rows without a label."""
    teacher_BC: torch.Tensor
    """The teacher's logits."""
    progress: float = 0.0
    """Share of the training's steps that were taken before, 1 at the last one."""
    inside: Features = field(default_factory=Features)
    """What was taken of the student's forward pass."""
    teachers_inside: Features = field(default_factory=Features)
    """The same of the teacher's."""

    def __len__(self) -> int:
        return len(self.labels_B)


@dataclass(frozen=True)
class DistillationLoss:
    """Sum over rows of what they cost against the labels and against the teacher; stands in the place of a `WeightedLoss`.

    Class weights and the adjustment of logits are of the labels' part alone: the teacher answers rare classes as it does. A
    DeiT has a head for each part: its class token is asked for the labels, its distillation token for the teacher. Rows
    without a label have no part of the labels; where a kind asks for one, the class that the teacher answers stands in.
    """

    labels: WeightedLoss
    labels_weight: Number
    """How much the labels' part counts. 0: they are not looked at."""
    kinds: Sequence[DistillationKind]
    """What is asked of the student beside the labels; each has its own weight."""
    comparisons: Mapping[int, nn.Module] = field(default_factory=dict)
    """What compares the insides, by the place of its kind, see `feature_loss.FeatureLoss`."""

    def __call__(self, logits: torch.Tensor, taught: Taught) -> torch.Tensor:
        """Scalar.

        Args:
            logits: the student's, shape (B, C); of two heads (B, 2, C), see `heads.head_logits`.
            taught: of the same rows.
        """
        own_BC, distilled_BC = logits.unbind(1) if logits.dim() == 3 else (logits, logits)
        has_label_B = taught.labels_B >= 0
        labels_B = torch.where(has_label_B, taught.labels_B, taught.teacher_BC.argmax(-1))
        total = sum(
            (kind.weight * self._of_rows(place, kind, distilled_BC, labels_B, taught)).sum()
            for place, kind in enumerate(settled(kind, taught.progress) for kind in self.kinds)
        )
        if any(ends_of(self.labels_weight)):
            # Also in a step in which it is 0: a head of its own would have no gradient, for which processes would wait.
            weight = settled(self, taught.progress).labels_weight
            total = total + weight * (self.labels.of_rows(own_BC, labels_B) * has_label_B).sum()
        return total

    def _of_rows(
        self, place: int, kind: DistillationKind, logits_BC: torch.Tensor, labels_B: torch.Tensor, taught: Taught
    ) -> torch.Tensor:
        if isinstance(kind, LogitKind):
            return kind(logits_BC, taught.teacher_BC, labels_B)
        return self.comparisons[place](taught.inside, taught.teachers_inside, taught.progress)


class Clock:
    """Adds up the seconds that are spent within it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self.started


@dataclass(frozen=True)
class Insides:
    """How the inside of a student is compared with its teacher's."""

    wanted: RequiredFeatures
    """What is taken of the student."""
    comparisons: Mapping[int, nn.Module]
    """See `DistillationLoss`; their weights train with the student's."""
    teacher: Callable[[dict[str, Any]], Features]
    """From a batch, as the student gets it, to what the teacher has of it."""
    kept: Mapping[str, Any] | Embed
    """By column, what is kept of the teacher, see `TaughtRows`; with `augmentation`, what makes its embeddings of views."""
    skip: int = 0
    """See `features.FeatureRecorder`."""
    clock: Clock = field(default_factory=Clock)
    """Of the teacher's part of the training."""


class DistillationTrainer(ClassifierTrainer):
    """Trains a student on the labels of its rows and on what its teacher has of them.

    Args:
        model, args: see `ClassifierTrainer`.
        teacher: the teacher's logits of the training rows, in their order, see `TaughtRows`; with `augmentation`, what answers
            the views of an epoch, see `TaughtViews`.
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
        insides: Insides | None = None,
        **fields: Any,
    ) -> None:
        if insides is not None:
            loss = replace(loss, comparisons=insides.comparisons)
        super().__init__(model, args, loss=loss, **fields)
        assert not self.mix, "the teacher sees no mixed rows"
        assert insides is None or not (self.unpadded or self.r_drop), "the two networks would see other rows"
        self.teacher, self.insides = teacher, insides
        self.watch: FeatureRecorder | None = None
        if insides is not None:
            self.watch = FeatureRecorder(model, insides.wanted, skip=insides.skip)
            # As a part of the model while it trains: optimiser, clipping, processes and checkpoints then know its weights.
            comparing = nn.ModuleDict({str(place): module for place, module in insides.comparisons.items()})
            model.add_module(COMPARING, comparing.to(args.device))
            self._anchor = model.register_forward_hook(_take_part)

    def _training_rows(self) -> TaughtRows | TaughtViews:
        rows = super()._training_rows()
        kept = {} if self.insides is None else self.insides.kept
        if isinstance(rows, AugmentedRows):
            assert callable(self.teacher), "the teacher has seen the rows as they are"
            return TaughtViews(rows, self.teacher, kept if callable(kept) else no_embeddings)
        assert not callable(self.teacher), "the teacher answers views, and the rows have none"
        assert isinstance(kept, Mapping)
        return TaughtRows(rows, self.teacher, kept)

    def _training_collate(self) -> Callable[[dict[str, list]], dict[str, Any]]:
        return partial(with_teacher, super()._training_collate())

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """As the classifier's; the loss gets the labels with what the teacher has of the same rows."""
        student = {name: x for name, x in inputs.items() if not name.startswith(TAUGHT)}
        # By the step alone, so that a run that was resumed does as one that was not.
        progress = self.state.global_step / max(self.state.max_steps - 1, 1)
        taught = Taught(inputs["labels"], inputs[COLUMN], progress)
        with ExitStack() as stack:
            if self.insides is not None and self.watch is not None:
                with self.insides.clock:
                    theirs = self.insides.teacher(inputs)
                inside = stack.enter_context(self.watch.recording(student))
                taught = replace(taught, inside=inside, teachers_inside=theirs)
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
