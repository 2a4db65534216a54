"""Fields of a recipe that were set to something and do nothing beside the others: no mistake, but worth a line at the start.

What cannot be meant is refused in `checks`; here stands what may be left over from another run.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from operator import attrgetter

from hf_finetune.augmentation.compose import generative_operations
from hf_finetune.config.recipe import Distill, ImageData, Recipe
from hf_finetune.training.losses.config import PerClass
from hf_finetune.training.optim.config import Muon


def _over_before_patience(recipe: Recipe) -> bool:
    """The first epoch sets the mark, and patience begins after it."""
    train = recipe.train
    return train.max_steps < 0 and 1 + (train.early_stopping_patience or 0) >= math.ceil(train.num_train_epochs)


def _over_before_a_drop(recipe: Recipe) -> bool:
    """As with patience; a rate that drops after the last epoch drops for no step."""
    train, patience = recipe.train, recipe.schedule.patience or 0
    return (
        train.lr_scheduler_type == "reduce_lr_on_plateau"
        and train.max_steps < 0
        and 2 + patience >= math.ceil(train.num_train_epochs)
    )


def _muon_has_no_matrix(recipe: Recipe) -> bool:
    """An adapter's factors are matrices inside the layers."""
    vectors = recipe.model.trainable in ("biases", "norms")
    return isinstance(recipe.optim.optimizer, Muon) and (recipe.trained == "head" or vectors)


def _words_are_frozen(recipe: Recipe) -> bool:
    model = recipe.model
    return recipe.trained != "full" or model.frozen_layers > 0 or model.trainable != "all"


def _nothing_is_cached(recipe: Recipe) -> bool:
    data = recipe.data
    pictures = isinstance(data, ImageData) and (data.decode_once or data.augment_copies > 0)
    answers = isinstance(recipe.objective, Distill)
    return not pictures and not answers and not recipe.batching.cache_prefix and not generative_operations(data.augment)


def _labels_are_not_asked(recipe: Recipe) -> bool:
    return isinstance(recipe.objective, Distill) and not recipe.objective.asks_labels


NOT_PUSHED = "nothing is pushed without hub.repo_id (--push)"
TABLE: tuple[tuple[str, Callable[[Recipe], bool], str], ...] = (
    ("data.validation_fraction", lambda r: r.data.validation is not None, "data.validation names the rows"),
    ("data.test_fraction", lambda r: r.data.test is not None, "data.test names the rows"),
    (
        "data.low_resolution_share",
        lambda r: isinstance(r.data, ImageData) and r.data.low_resolution is None,
        "data.low_resolution is not set",
    ),
    ("model.top_layers", lambda r: r.trained != "top", "method top alone reads it"),
    ("model.frozen_layers", lambda r: r.trained == "head", "method head trains no layer"),
    ("objective.label_smoothing", _labels_are_not_asked, "objective.labels_weight is 0"),
    ("objective.loss", _labels_are_not_asked, "objective.labels_weight is 0"),
    (
        "objective.class_weights",
        lambda r: r.batching.sampling == "balanced" and not isinstance(r.objective.class_weights, PerClass),
        "batching.sampling balanced draws as many rows of every class",
    ),
    (
        "objective.logit_adjustment",
        lambda r: r.batching.sampling == "balanced",
        "batching.sampling balanced draws as many rows of every class",
    ),
    (
        "regularize.gradient_noise.gamma",
        lambda r: r.regularize.gradient_noise.eta == 0,
        "regularize.gradient_noise.eta is 0",
    ),
    ("train.num_train_epochs", lambda r: r.train.max_steps > 0, "train.max_steps says when the run ends"),
    (
        "train.lr_scheduler_type",
        _over_before_a_drop,
        "the run is over before the rate could drop, so it stays as it is",
    ),
    ("train.early_stopping_patience", _over_before_patience, "the run is over before it could run out"),
    *(
        (f"train.{name}", lambda r: not r.fits_head, "no head is fitted")
        for name in ("head_inverse_strength", "head_least_explained")
    ),
    (
        "train.per_device_train_batch_size",
        lambda r: r.batching.token_budget is not None,
        "batching.token_budget says how many rows go together",
    ),
    (
        "averaging.soup",
        lambda r: r.train.max_steps < 0 and r.train.num_train_epochs <= 1,
        "one epoch alone has nothing to be averaged with",
    ),
    ("batching.cache_gb", _nothing_is_cached, "nothing is cached"),
    ("optim.optimizer", _muon_has_no_matrix, "no matrix inside a layer trains, so AdamW does all of it"),
    ("optim.word_embeddings", lambda r: isinstance(r.data, ImageData), "pictures have no words"),
    ("optim.word_embeddings", _words_are_frozen, "they stay as they are in any case"),
    *(
        (f"pretrain.{name}", lambda r: r.pretrain.objective is None, "pretrain.objective is not set")
        for name in ("rows", "learning_rate", "num_train_epochs", "max_steps", "held_out_fraction", "compare")
    ),
    ("pretrain.num_train_epochs", lambda r: r.pretrain.max_steps > 0, "pretrain.max_steps says when the stage ends"),
    ("hub.private", lambda r: r.hub.repo_id is None, NOT_PUSHED),
    ("hub.revision", lambda r: r.hub.repo_id is None, NOT_PUSHED),
    ("hub.create_pr", lambda r: r.hub.repo_id is None, NOT_PUSHED),
)
"""A field, when it does nothing, and why."""


def without_effect(recipe: Recipe) -> tuple[str, ...]:
    """A note for each field that is not at its default and does nothing in this run."""
    found: dict[str, str] = {}
    for name, idle, why in TABLE:
        if idle(recipe) and _is_set(recipe, name):
            found.setdefault(name, f"{name} has no effect here: {why}")
    return tuple(found.values())


def _is_set(recipe: Recipe, name: str) -> bool:
    section, _, own = name.rpartition(".")
    holder = attrgetter(section)(recipe)
    default = {f.name: f.default for f in dataclasses.fields(holder)}[own]
    return getattr(holder, own) != default
