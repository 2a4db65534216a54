"""What does not go with a teacher, and what a teacher makes idle; see `utils.rules`."""

from __future__ import annotations

from functools import partial
from typing import Any

from hf_finetune.distillation.config import FeatureKind, TokenKind
from hf_finetune.distillation.weight_schedules import ends_of
from hf_finetune.utils.rules import Conflict, Unused


def _compares(recipe: Any, kinds: Any = FeatureKind) -> bool:
    """Whether hidden states, attention or embeddings are compared with the teacher's."""
    return any(isinstance(kind, kinds) for kind in recipe.distillation_kinds)


def _ignores_labels(recipe: Any) -> bool:
    return recipe.has_teacher and not recipe.objective.uses_labels


def _discards_states(recipe: Any, name: str) -> bool:
    return _compares(recipe) and bool(recipe.train.extra.get(name))


FEATURES = "comparing hidden states, attention or embeddings"
CONFLICTS = (
    Conflict(
        "data.unlabeled",
        lambda r: r.data.unlabeled and not r.has_teacher,
        "none without a teacher that predicts their classes, --teacher MODEL",
    ),
    Conflict(
        "objective.kinds",
        lambda r: r.has_teacher and not any(any(ends_of(kind.weight)) for kind in r.distillation_kinds),
        "one at least with a weight above 0; without a teacher, Supervised",
    ),
    Conflict(
        "objective.labels_weight",
        lambda r: _ignores_labels(r) and not r.objective.uses_teacher_logits,
        "above 0, or a kind that compares logits (SoftTargets): the head learns nothing of the others",
    ),
    Conflict(
        "objective.mix", lambda r: r.has_teacher and r.objective.mix, "none with a teacher, which sees no mixed rows"
    ),
    Conflict(
        "data.augment_copies",
        lambda r: r.has_teacher and r.kind == "image" and r.data.augment_copies,
        "0 for images with a teacher, which has a processor of its own",
    ),
    Conflict(
        "method",
        lambda r: _compares(r) and r.effective_method == "head",
        f"another when {FEATURES}: these are of the encoder, which would not train",
    ),
    Conflict(
        "objective.teacher",
        lambda r: _compares(r) and len(r.objective.teachers) > 1,
        f"one when {FEATURES}: several have none in common",
    ),
    Conflict(
        "objective.r_drop",
        lambda r: _compares(r) and r.objective.r_drop,
        f"0 when {FEATURES}: the teacher sees every row once",
    ),
    Conflict(
        "batching.unpadded",
        lambda r: _compares(r) and r.batching.unpadded,
        f"false or None when {FEATURES}, which reads padded rows",
    ),
    Conflict(
        "adapter.peft_type",
        lambda r: _compares(r) and r.uses_prompt_learning,
        f"another when {FEATURES}: the teacher's rows have no prompts",
    ),
    *(
        Conflict(
            f"train.extra.{name}",
            partial(_discards_states, name=name),
            f"false when {FEATURES}, which reads the states that it discards",
        )
        for name in ("gradient_checkpointing", "activation_checkpointing")
    ),
    Conflict(
        "model.patch_drop",
        lambda r: _compares(r, TokenKind) and r.model.patch_drop,
        f"0 when {FEATURES}: the teacher sees all patches",
    ),
    Conflict(
        "data.low_resolution",
        lambda r: _compares(r, TokenKind) and r.kind == "image" and r.data.low_resolution is not None,
        f"None when {FEATURES}: the teacher sees full size",
    ),
)
UNUSED = (
    Unused("objective.label_smoothing", _ignores_labels, "objective.labels_weight is 0"),
    Unused("objective.loss", _ignores_labels, "objective.labels_weight is 0"),
)
