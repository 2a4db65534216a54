"""Rules of a whole recipe: what does not go together is refused, what has no effect is noted.

The range of a field by itself stands beside it, a technique's rules in the `rules.py` of its room.
"""

from __future__ import annotations

import math

from hf_finetune.augmentation import rules as augmentation
from hf_finetune.augmentation.compose import check_kind, generative_operations
from hf_finetune.config.recipe import Recipe
from hf_finetune.distillation import rules as distillation
from hf_finetune.errors import InputError
from hf_finetune.models import rules as models
from hf_finetune.models.peft.config import plain_adapter
from hf_finetune.pretraining import rules as pretraining
from hf_finetune.training import rules as training
from hf_finetune.training.optim.config import check_installed
from hf_finetune.training.optim.schedule_config import resolve
from hf_finetune.utils import rules
from hf_finetune.utils.plain import flatten
from hf_finetune.utils.rules import Unused

CONFLICTS = (
    *models.CONFLICTS,
    *training.CONFLICTS,
    *augmentation.CONFLICTS,
    *distillation.CONFLICTS,
    *pretraining.CONFLICTS,
)


def check(recipe: Recipe) -> None:
    """Refuse a recipe whose fields do not go together.

    Raises:
        InputError: naming the field, what it expects and the value.
    """
    free = {"train.extra": recipe.train.extra, "model.from_config": recipe.model.from_config or {}}
    for name, value in flatten({**free, "adapter": plain_adapter(recipe.adapter) or {}}).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{name}: expected a finite number, got {value!r}")
    check_kind(recipe.data.augment, recipe.kind)
    pretraining.check_views(recipe)
    check_installed(recipe.optim.optimizer)
    train, optimizer = recipe.train, recipe.optim.optimizer
    resolve(train.lr_scheduler_type, recipe.schedule, warmup_steps=train.warmup_steps, optimizer=optimizer)
    for conflict in CONFLICTS:
        conflict.refuse(recipe)


def _caches_nothing(recipe: Recipe) -> bool:
    data = recipe.data
    images = data.kind == "image" and (data.decode_once or data.augment_copies > 0)
    logits = recipe.has_teacher
    return not images and not logits and not recipe.batching.cache_prefix and not generative_operations(data.augment)


NOT_PUSHED = "nothing is pushed without hub.repo_id (--push)"
UNUSED = (
    *models.UNUSED,
    *training.UNUSED,
    *distillation.UNUSED,
    *pretraining.UNUSED,
    Unused("data.validation_fraction", lambda r: r.data.validation is not None, "data.validation names the rows"),
    Unused("data.test_fraction", lambda r: r.data.test is not None, "data.test names the rows"),
    Unused(
        "data.low_resolution_share",
        lambda r: r.data.kind == "image" and r.data.low_resolution is None,
        "data.low_resolution is not set",
    ),
    Unused("batching.cache_gb", _caches_nothing, "nothing is cached"),
    *(
        Unused(f"hub.{name}", lambda r: r.hub.repo_id is None, NOT_PUSHED)
        for name in ("private", "revision", "create_pr")
    ),
)
"""Options that may be left over from another run."""


def unused_options(recipe: Recipe) -> tuple[str, ...]:
    """Return a note for each option that is set and has no effect in this recipe."""
    return rules.unused_options(recipe, UNUSED)
