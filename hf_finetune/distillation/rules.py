"""Rules of distillation: what a teacher rules out, and what it leaves without effect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from hf_finetune.distillation.config import Distill, DistillationKind, TokenKind
from hf_finetune.distillation.weight_schedules import ends_of
from hf_finetune.training.rules import TrainingRecipe
from hf_finetune.utils import rules


class DistillationRecipe(TrainingRecipe, Protocol):
    """The part of a recipe that these rules read."""

    @property
    def distillation_kinds(self) -> tuple[DistillationKind, ...]: ...
    @property
    def has_teacher(self) -> bool: ...
    @property
    def compares_features(self) -> bool: ...


Conflict = rules.Conflict[DistillationRecipe]
Unused = rules.Unused[DistillationRecipe]


def compares_tokens(recipe: DistillationRecipe) -> bool:
    """Whether features are compared token by token, so that student and teacher must read the same tokens."""
    return any(isinstance(kind, TokenKind) for kind in recipe.distillation_kinds)


def _ignores_labels(recipe: DistillationRecipe) -> bool:
    return isinstance(recipe.objective, Distill) and not recipe.objective.uses_labels


def _ignores_teacher_logits(recipe: DistillationRecipe) -> bool:
    return isinstance(recipe.objective, Distill) and not recipe.objective.uses_teacher_logits


def _has_several_teachers(recipe: DistillationRecipe) -> bool:
    return isinstance(recipe.objective, Distill) and len(recipe.objective.teachers) > 1


def _has_extra(name: str) -> Callable[[DistillationRecipe], object]:
    return lambda recipe: recipe.train.extra.get(name)


FEATURES = "comparing hidden states, attention or embeddings"
TEACHER = rules.only_when(
    lambda r: r.has_teacher,
    Conflict(
        "objective.kinds",
        lambda r: not any(any(ends_of(kind.weight)) for kind in r.distillation_kinds),
        "at least one with a weight above 0; without a teacher, Supervised",
    ),
    Conflict(
        "objective.labels_weight",
        lambda r: _ignores_labels(r) and _ignores_teacher_logits(r),
        "above 0, or a kind that compares logits (SoftTargets): the others do not train the head",
    ),
    Conflict("objective.mix", lambda r: r.objective.mix, "none with a teacher, which sees no mixed rows"),
)
COMPARED_FEATURES = rules.only_when(
    lambda r: r.compares_features,
    Conflict(
        "method",
        lambda r: r.effective_method == "head",
        f"another method when {FEATURES}: method head does not train the encoder, which computes them",
    ),
    Conflict(
        "objective.teacher", _has_several_teachers, f"one when {FEATURES}: those of several teachers cannot be averaged"
    ),
    Conflict(
        "objective.r_drop", lambda r: r.objective.r_drop, f"0 when {FEATURES}: the teacher reads every example once"
    ),
    Conflict(
        "batching.unpadded", lambda r: r.batching.unpadded, f"false or None when {FEATURES}, which needs padded batches"
    ),
    Conflict(
        "adapter.peft_type",
        lambda r: r.uses_prompt_learning,
        f"another adapter when {FEATURES}: the teacher reads no virtual tokens",
    ),
    *(
        Conflict(
            f"train.extra.{name}",
            _has_extra(name),
            f"false when {FEATURES}, which reads the activations that it discards",
        )
        for name in ("gradient_checkpointing", "activation_checkpointing")
    ),
    Conflict(
        "model.patch_drop",
        lambda r: compares_tokens(r) and r.model.patch_drop,
        f"0 when {FEATURES}: the teacher reads all patches",
    ),
)
CONFLICTS = (*TEACHER, *COMPARED_FEATURES)
UNUSED = (
    Unused("objective.label_smoothing", _ignores_labels, "objective.labels_weight is 0"),
    Unused("objective.loss", _ignores_labels, "objective.labels_weight is 0"),
)
