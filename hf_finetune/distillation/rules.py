"""Rules of distillation: what a teacher rules out, and what it leaves without effect."""

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
        "at least one with a weight above 0; without a teacher, Supervised",
        lambda r: not any(any(ends_of(kind.weight)) for kind in r.distillation_kinds),
    ),
    Conflict(
        "objective.labels_weight",
        "above 0, or a kind that compares logits (SoftTargets): the others do not train the head",
        lambda r: _ignores_labels(r) and _ignores_teacher_logits(r),
    ),
    Conflict("objective.mix", "none with a teacher, which sees no mixed rows"),
    Conflict("objective.contrast", "0 with a teacher, whose predictions are no classes to compare"),
)
COMPARED_FEATURES = rules.only_when(
    lambda r: r.compares_features,
    Conflict(
        "method",
        f"another method when {FEATURES}: method head does not train the encoder, which computes them",
        lambda r: r.effective_method == "head",
    ),
    Conflict(
        "objective.teacher", f"one when {FEATURES}: those of several teachers cannot be averaged", _has_several_teachers
    ),
    Conflict("objective.r_drop", f"0 when {FEATURES}: the teacher reads every example once"),
    Conflict(
        "batching.unpadded", f"false or None when {FEATURES}, which needs padded batches", lambda r: r.batching.unpadded
    ),
    Conflict(
        "adapter.peft_type",
        f"another adapter when {FEATURES}: the teacher reads no virtual tokens",
        lambda r: r.uses_prompt_learning,
    ),
    *(
        Conflict(
            f"train.extra.{name}",
            f"false when {FEATURES}, which reads the activations that it discards",
            _has_extra(name),
        )
        for name in ("gradient_checkpointing", "activation_checkpointing")
    ),
    Conflict("model.patch_drop", f"0 when {FEATURES}: the teacher reads all patches", compares_tokens),
)
CONFLICTS = (*TEACHER, *COMPARED_FEATURES)
UNUSED = (
    Unused("objective.label_smoothing", "objective.labels_weight is 0", _ignores_labels),
    Unused("objective.loss", "objective.labels_weight is 0", _ignores_labels),
)
