"""What does not go with further pretraining; see `utils.rules`."""

from __future__ import annotations

from typing import Any

from hf_finetune.augmentation.compose import Phases, Sometimes, check_kind, walk
from hf_finetune.pretraining.config import ImageObjective, SimCLR
from hf_finetune.utils.rules import Conflict, Unused, both


def check_views(recipe: Any) -> None:
    """Refuse views of an image that pretraining cannot make.

    Raises:
        InputError: naming the operation.
    """
    if isinstance(recipe.pretrain.objective, SimCLR):
        check_kind(recipe.pretrain.objective.augment, "image", "pretrain.objective.augment")


def _views(recipe: Any) -> list[Any]:
    objective = recipe.pretrain.objective
    return list(walk(objective.augment)) if isinstance(objective, SimCLR) else []


WITH = "with pretrain.objective"
CONFLICTS = tuple(
    Conflict(field, both(lambda r: r.pretrain.objective is not None, clashes), expected)
    for field, clashes, expected in (
        (
            "pretrain.objective",
            lambda r: r.kind == "text" and isinstance(r.pretrain.objective, ImageObjective),
            "MaskedLanguage or SimCSE for texts",
        ),
        (
            "pretrain.objective",
            lambda r: r.kind == "image" and not isinstance(r.pretrain.objective, ImageObjective),
            "SimMIM, MAE or SimCLR for images",
        ),
        (
            "train.per_device_train_batch_size",
            lambda r: r.pretrain.objective.compares_rows and r.train.per_device_train_batch_size < 2,
            "2 or more with SimCSE and SimCLR, which tell a row from others",
        ),
        (
            "pretrain.objective.augment",
            lambda r: any(isinstance(o, Sometimes) and o.by_class == "rare" for o in _views(r)),
            "by_class all: rows have no classes here",
        ),
        (
            "pretrain.objective.augment",
            lambda r: any(isinstance(o, Phases) for o in _views(r)),
            "operations without Phases, which are for data.augment",
        ),
        (
            "train.early_stopping_patience",
            lambda r: r.pretrain.compare and r.train.early_stopping_patience is not None,
            "None with pretrain.compare, as both sides train for the same time",
        ),
        (
            "model.surgery",
            lambda r: r.model.surgery,
            f"none {WITH}; do it in a run of its own, whose --model is the pretrained/ of this one",
        ),
        ("model.from_config", lambda r: r.model.from_config is not None, f"null {WITH}, which needs a checkpoint"),
        ("model.trust_remote_code", lambda r: r.model.trust_remote_code, f"false {WITH}, which is for stock families"),
        (
            "adapter.peft_type",
            lambda r: r.uses_prompt_learning,
            f"another {WITH}: it would need the checkpoint as pretraining left it",
        ),
    )
)
UNUSED = (
    *(
        Unused(f"pretrain.{name}", lambda r: r.pretrain.objective is None, "pretrain.objective is not set")
        for name in ("rows", "learning_rate", "num_train_epochs", "max_steps", "held_out_fraction", "compare")
    ),
    Unused(
        "pretrain.num_train_epochs", lambda r: r.pretrain.max_steps > 0, "pretrain.max_steps says when the stage ends"
    ),
)
