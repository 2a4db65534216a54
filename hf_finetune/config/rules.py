"""Rules of a whole recipe. Fields that contradict each other are refused; options without effect are noted.

The bounds of a field stand beside it. The rules of a technique are in the `rules.py` of its package. The rules here
read the data, or sections of several packages.
"""

import dataclasses
import math
from collections.abc import Collection

from hf_finetune.augmentation.compose import check_kind, depends_on_progress, generative_operations
from hf_finetune.config.recipe import Recipe, blank_recipe
from hf_finetune.data.long.base import LongTexts
from hf_finetune.data.long.config import TRUNCATE
from hf_finetune.distillation import rules as distillation
from hf_finetune.errors import InputError
from hf_finetune.features.config import Classical
from hf_finetune.models import rules as models
from hf_finetune.models.peft.config import plain_adapter
from hf_finetune.pretraining import rules as pretraining
from hf_finetune.pretraining.config import SimCLR
from hf_finetune.training import rules as training
from hf_finetune.training.config import Averaging
from hf_finetune.training.optim.config import check_installed
from hf_finetune.training.optim.schedule_config import BY_EVALUATIONS, resolve
from hf_finetune.utils import rules
from hf_finetune.utils.plain import flatten

Conflict = rules.Conflict[Recipe]
Unused = rules.Unused[Recipe]

DATA = (
    Conflict(
        "model.tokenizer",
        "null without data.sequence (--sequence dna, rna or protein), whose letters it reads",
        lambda r: r.model.tokenizer is not None and r.sequence is None,
    ),
    Conflict(
        "data.unlabeled",
        "none without a teacher that predicts their classes, --teacher MODEL",
        lambda r: not r.has_teacher,
    ),
    Conflict(
        "data.augment_copies",
        "1 or more with operations of language models, which are too slow to run in every epoch",
        lambda r: r.data.augment_copies == 0 and generative_operations(r.data.augment),
        value=lambda r: r.data.augment_copies,
    ),
    Conflict(
        "data.features",
        "none without --method classical, which alone reads columns beside the text or the image",
        lambda r: r.method not in ("classical", "auto"),
    ),
    Conflict("data.augment_copies", "0, or 1 or more with data.augment", lambda r: not r.data.augment),
    Conflict(
        "data.augment_copies",
        "0 with Phases: stored copies are the same in every epoch",
        lambda r: depends_on_progress(r.data.augment),
    ),
    Conflict(
        "data.augment_copies",
        "0 for images with a teacher, which has an image processor of its own",
        lambda r: r.has_teacher and r.kind == "image",
    ),
    Conflict(
        "data.low_resolution",
        f"None when {distillation.FEATURES}: the teacher reads images of full size",
        lambda r: r.data.kind == "image" and distillation.compares_tokens(r),
    ),
)
LONG = (
    Conflict(
        "data.long",
        f"truncate when {distillation.FEATURES}: the teacher reads the beginning of a text",
        lambda r: _long(r) != TRUNCATE and r.compares_features,
    ),
    Conflict(
        "objective.mix",
        "none with data.long in windows, of which texts have unlike numbers",
        lambda r: _long(r).shares is not None,
    ),
)
SEARCH = (
    Conflict(
        "method",
        "full, lora, top or head here: only `train` and `run` try them in turn",
        lambda r: r.method == "auto",
    ),
)
NETWORK_ONLY = (
    *("train", "optim", "schedule", "batching", "precision", "averaging", "regularize", "lora", "model", "objective"),
)
"""Sections that only a network reads, except for `ALSO_CLASSICAL`."""
ALSO_CLASSICAL = (*("model.checkpoint", "model.trust_remote_code", "train.extra", "train.seed", "batching.cache_gb"),)
CLASSICAL = rules.only_when(
    lambda r: r.effective_method == "classical",
    Conflict("model.from_config", "None with method classical, which has no network"),
    Conflict("model.surgery", "none with method classical, which has no network"),
    Conflict("data.augment", "none with method classical, which reads every row once"),
    Conflict("compress", "None with method classical, which has no network"),
    Conflict("pretrain.objective", "None with method classical, which has no network"),
    Conflict(
        "objective.teacher", "none with method classical, which learns from labels alone", lambda r: r.has_teacher
    ),
)
FOLDS = (
    Conflict("evaluate.folds", "null with a teacher", lambda r: r.has_teacher),
    Conflict("evaluate.folds", "null with pretrain.objective", lambda r: r.pretrain.objective is not None),
    Conflict(
        "evaluate.folds",
        "null with train.early_stopping_patience or averaging: its networks keep their last weights",
        lambda r: r.train.early_stopping_patience or r.averaging != Averaging(),
    ),
    Conflict(
        "evaluate.folds",
        "null with a schedule that the metric of the predicted rows would lower",
        lambda r: r.train.lr_scheduler_type in BY_EVALUATIONS,
    ),
)
CONFLICTS: tuple[Conflict, ...] = (
    *CLASSICAL,
    *SEARCH,
    *models.CONFLICTS,
    *training.CONFLICTS,
    *DATA,
    *LONG,
    *FOLDS,
    *distillation.CONFLICTS,
    *pretraining.CONFLICTS,
)


def _long(recipe: Recipe) -> LongTexts:
    return recipe.data.long if recipe.data.kind == "text" else TRUNCATE


def check(recipe: Recipe) -> None:
    """Refuse a recipe whose fields do not go together.

    Raises:
        InputError: naming the field, what it expects and the value.
    """
    free = {"train.extra": recipe.train.extra, "model.from_config": recipe.model.from_config or {}}
    for name, value in flatten({**free, "adapter": plain_adapter(recipe.adapter) or {}}).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{name}: expected a finite number, got {value!r}")
    check_kind(recipe.data.augment, recipe.kind, sequence=recipe.sequence)
    if isinstance(recipe.pretrain.objective, SimCLR):
        check_kind(recipe.pretrain.objective.augment, "image", "pretrain.objective.augment")
    check_installed(recipe.optim.optimizer)
    train, optimizer = recipe.train, recipe.optim.optimizer
    resolve(train.lr_scheduler_type, recipe.schedule, warmup_steps=train.warmup_steps, optimizer=optimizer)
    for conflict in CONFLICTS:
        conflict.refuse(recipe)


def _caches_nothing(recipe: Recipe) -> bool:
    data = recipe.data
    caches_images = data.kind == "image" and (data.decode_once or data.augment_copies > 0)
    caches_texts = bool(generative_operations(data.augment))
    # Features of a checkpoint, which method classical may read, are cached.
    caches_features = _is_classical(recipe)
    return not (caches_images or caches_texts or caches_features or recipe.has_teacher or recipe.batching.cache_prefix)


def _is_classical(recipe: Recipe) -> bool:
    return recipe.effective_method == "classical"


NOT_PUSHED = "nothing is pushed without hub.repo_id (--push)"
UNUSED: tuple[Unused, ...] = (
    *models.UNUSED,
    *training.UNUSED,
    *distillation.UNUSED,
    *pretraining.UNUSED,
    Unused("data.validation_fraction", "data.validation names the rows", lambda r: r.data.validation is not None),
    Unused("evaluate.repeats", "evaluate.folds is null", lambda r: r.evaluate.folds is None),
    Unused(
        "evaluate.group",
        "evaluate.folds is null, and no rows are held out",
        lambda r: (
            r.evaluate.folds is None
            and r.data.validation is not None
            and (r.data.test is not None or r.data.test_fraction == 0)
        ),
    ),
    Unused("data.test_fraction", "data.test names the rows", lambda r: r.data.test is not None),
    Unused(
        "data.low_resolution_share",
        "data.low_resolution is not set",
        lambda r: r.data.kind == "image" and r.data.low_resolution is None,
    ),
    Unused("batching.cache_gb", "nothing is cached", _caches_nothing),
    *(
        Unused(f"hub.{name}", NOT_PUSHED, lambda r: r.hub.repo_id is None)
        for name in ("private", "revision", "create_pr")
    ),
)


OF_METHOD: tuple[Unused, ...] = (
    *(
        Unused(f"{section}.{field.name}", "method classical has no network", _is_classical)
        for section in NETWORK_ONLY
        for field in dataclasses.fields(getattr(blank_recipe(images=False), section))
        if f"{section}.{field.name}" not in ALSO_CLASSICAL
    ),
    Unused("evaluate.metric", "method classical has no epochs to choose from", _is_classical),
    Unused("data.long", "method classical reads whole texts", lambda r: _is_classical(r) and r.kind == "text"),
    Unused("data.max_length", "method classical reads whole texts", lambda r: _is_classical(r) and r.kind == "text"),
    *(
        Unused(f"classical.{field.name}", "only method classical reads it", lambda r: not _is_classical(r))
        for field in dataclasses.fields(Classical)
    ),
)
"""Whole sections that a method does not read."""


def unused_options(recipe: Recipe, *, used: Collection[str] = ()) -> tuple[str, ...]:
    """Return a note for each option that is set and has no effect in this recipe.

    Args:
        used: fields that have an effect in any case, see `Task.always_used`.
    """
    return rules.unused_options(recipe, [option for option in (*UNUSED, *OF_METHOD) if option.field not in used])
