"""Variants of the user's recipe. No other module of the search depends on the type of the recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from hf_finetune.augmentation.compose import Augmentation
from hf_finetune.augmentation.mixing import Mixing
from hf_finetune.config.data import ImageData, TextData
from hf_finetune.config.recipe import Recipe
from hf_finetune.config.rules import check
from hf_finetune.config.search import Search
from hf_finetune.distillation.config import Distill
from hf_finetune.errors import InputError
from hf_finetune.features.config import Classical
from hf_finetune.models.config import Model
from hf_finetune.models.peft.config import Lora
from hf_finetune.models.surgery.gather_mean import GatherMean
from hf_finetune.models.surgery.patches import ResizeImage
from hf_finetune.training.config import Averaging, Batching, Train
from hf_finetune.training.optim.config import Optim
from hf_finetune.training.optim.schedule_config import in_proportion, of_shorter_run
from hf_finetune.training.regularization.config import Regularize
from hf_finetune.utils.durations import parse_duration

SingleMethod = Literal["head", "top", "lora", "full"]
"""What trains one model."""


@dataclass(frozen=True)
class RecipeVariant:
    """A recipe, and the variants of it that a search trains."""

    recipe: Recipe

    @property
    def low_resolution(self) -> bool:
        """Whether training starts on smaller images."""
        return self.recipe.data.kind == "image" and self.recipe.data.low_resolution is not None

    def with_policy(self, augment: tuple[Augmentation, ...], mix: tuple[Mixing, ...]) -> RecipeVariant:
        """Return the variant with an augmentation policy."""
        recipe = self.recipe
        objective, data = replace(recipe.objective, mix=mix), _replace(recipe.data, augment=augment)
        return RecipeVariant(replace(recipe, data=data, objective=objective))

    def with_image_size(self, side: int) -> RecipeVariant:
        """Return the variant for images of `side` pixels a side."""
        recipe = self.recipe
        assert recipe.data.kind == "image"
        model = replace(recipe.model, surgery=(*recipe.model.surgery, ResizeImage(side)))
        return RecipeVariant(replace(recipe, data=replace(recipe.data, low_resolution=None), model=model))

    def with_steps(self, steps: int, *, seed: int, recipe_steps: int) -> RecipeVariant:
        """Return the variant of `steps` steps that selects neither an epoch nor averaged weights on validation rows.

        Args:
            recipe_steps: steps of the recipe itself, to scale its learning-rate schedule.
        """
        recipe, train, part = self.recipe, self.recipe.train, steps / recipe_steps
        warmup_steps = None if train.warmup_steps is None else in_proportion(train.warmup_steps, part)
        shorter = replace(train, seed=seed, max_steps=steps, warmup_steps=warmup_steps, early_stopping_patience=None)
        schedule = of_shorter_run(train.lr_scheduler_type, recipe.schedule, part)
        return RecipeVariant(replace(recipe, train=shorter, schedule=schedule, averaging=Averaging()))

    def for_timing(self, steps: int, rows_per_step: int, augment: tuple[Augmentation, ...]) -> RecipeVariant:
        """Return a short variant to measure the cost of steps."""
        recipe = self.recipe
        train = replace(recipe.train, max_steps=steps, gradient_accumulation_steps=1, early_stopping_patience=None)
        batching = replace(recipe.batching, rows_per_step=rows_per_step, token_budget=None)
        data = _replace(recipe.data, augment=augment)
        return RecipeVariant(replace(recipe, data=data, batching=batching, train=train, averaging=Averaging()))

    def budget_s(self, default: str) -> float:
        """Return the seconds of the budget; those of a preset without one are not limited."""
        search = self.recipe.search
        if search.budget is None and search.preset is not None:
            return math.inf
        return parse_duration(search.budget or default)

    def with_choices(self, loaded: RecipeVariant) -> RecipeVariant:
        """Return the recipe with what was chosen when its rows were loaded, as of another method.

        Args:
            loaded: the recipe of the loaded input.
        """
        recipe, chosen = self.recipe, loaded.recipe
        data = _replace(recipe.data, long=chosen.data.long) if chosen.data.kind == "text" else recipe.data
        # Settled for the rows: what the head reads, the number of epochs, and the size of a step.
        settled: dict[str, Any] = {"model": chosen.model, "train": chosen.train, "batching": chosen.batching}
        settled["precision"] = chosen.precision
        return RecipeVariant(replace(recipe, data=data, **settled))

    def with_float32(self, setting: Literal["highest", "medium"]) -> RecipeVariant:
        """Return the variant with a setting of float32 matrix products where it has none: short runs measure none."""
        precision = self.recipe.precision
        if precision.float32_matmul != "auto":
            return self
        return RecipeVariant(replace(self.recipe, precision=replace(precision, float32_matmul=setting)))

    def with_checkpoint(self, checkpoint: str) -> RecipeVariant:
        """Return the variant that starts from another checkpoint."""
        model = replace(self.recipe.model, checkpoint=checkpoint, base_model=None, revision=None)
        return RecipeVariant(replace(self.recipe, model=model))

    def with_teachers(self, teachers: tuple[str, ...]) -> RecipeVariant:
        """Return the variant that learns from teachers.

        Raises:
            InputError: the recipe has one already.
        """
        recipe = self.recipe
        if isinstance(recipe.objective, Distill):
            raise InputError("the recipe has a teacher of its own")
        return RecipeVariant(replace(recipe, objective=Distill(teacher=teachers, **vars(recipe.objective))))

    @property
    def climbs(self) -> bool:
        """Whether the recipe asks for the ladder."""
        return self.recipe.method == "auto" or self.recipe.search.preset is not None

    def with_folds(self, folds: int | None) -> RecipeVariant:
        """Return the variant that is judged out of fold. None: on the validation rows."""
        return RecipeVariant(replace(self.recipe, evaluate=replace(self.recipe.evaluate, folds=folds)))

    @property
    def can_have_folds(self) -> bool:
        """Whether nothing in the recipe, such as early stopping, would look at the predicted rows."""
        try:
            check(self.for_rung("full").with_folds(2).recipe)
        except InputError:
            return False
        return True

    @property
    def for_one_run(self) -> RecipeVariant:
        """Return the recipe of a single run: what tries several variants is left out."""
        return RecipeVariant(replace(self.recipe, search=Search()))

    @property
    def seeds(self) -> range:
        """The seeds that the recipe asks for."""
        first = self.recipe.train.seed
        return range(first, first + (self.recipe.search.seeds or 1))

    def with_seed(self, seed: int) -> RecipeVariant:
        """Return the variant with another seed."""
        return RecipeVariant(replace(self.recipe, train=replace(self.recipe.train, seed=seed)))

    def averaged_with(self, run: str, *, seed: int) -> RecipeVariant:
        """Return the variant with another seed, whose weights are averaged with those of a finished run."""
        averaging = replace(self.recipe.averaging, runs=(*self.recipe.averaging.runs, run))
        return RecipeVariant(replace(self.with_seed(seed).recipe, averaging=averaging))

    def without_push(self) -> RecipeVariant:
        """Return the variant that pushes nothing."""
        return RecipeVariant(replace(self.recipe, hub=replace(self.recipe.hub, repo_id=None)))

    def for_rung(self, method: SingleMethod, *, seconds: float | None = None) -> RecipeVariant:
        """Return the variant that trains by a method on a rung of the ladder.

        Args:
            seconds: most seconds of training, unless the recipe's own limit is shorter. None: no other limit.
        """
        recipe = self.for_one_run.recipe
        train, limit = recipe.train, recipe.train.max_time
        if seconds is not None and (limit is None or seconds < parse_duration(limit)):
            train = replace(train, max_time=f"{max(1, round(seconds))}s", fit_schedule=True)
        changes: dict[str, Any] = {
            "method": method,
            # Only classical models read further columns.
            "data": _replace(recipe.data, features=()),
            "lora": recipe.lora if method == "lora" else Lora(),
            "hub": replace(recipe.hub, repo_id=None),
            "train": train,
        }
        if method == "top" and any(isinstance(step, GatherMean) for step in recipe.model.surgery):
            # It comes on top of the layers that train.
            changes["model"] = replace(recipe.model, top_layers=recipe.model.top_layers + 1)
        if method == "head":
            # Features that are computed once do not change from epoch to epoch.
            changes["data"] = _replace(recipe.data, features=(), augment=(), augment_copies=0)
            changes["objective"] = replace(recipe.objective, mix=())
        return RecipeVariant(replace(recipe, **changes))

    def for_classical(self, config: Classical) -> RecipeVariant:
        """Return the recipe that fits a classical model to the same rows, without what only a network reads."""
        recipe = self.recipe
        return RecipeVariant(
            Recipe(
                name=recipe.name,
                data=_replace(recipe.data, augment=(), augment_copies=0),
                model=Model(checkpoint=recipe.model.checkpoint),
                method="classical",
                classical=config,
                train=Train(seed=recipe.train.seed),
                batching=Batching(cache_gb=recipe.batching.cache_gb),
                evaluate=recipe.evaluate,
                hub=replace(recipe.hub, repo_id=None),
            )
        )

    @property
    def with_random_head(self) -> RecipeVariant:
        """Return the variant whose head starts from random weights."""
        return RecipeVariant(replace(self.recipe, train=replace(self.recipe.train, head_warm_start=False)))

    def with_length(self, epochs: float) -> RecipeVariant:
        """Return the variant that trains for a number of epochs."""
        return RecipeVariant(replace(self.recipe, train=replace(self.recipe.train, num_train_epochs=epochs)))

    def for_proxy_task(self) -> RecipeVariant:
        """Return the variant that trials load, without everything that slows steps down or changes the rows."""
        recipe = self.recipe
        data = _replace(recipe.data, augment=(), augment_copies=0)
        if data.kind == "image":
            data = replace(data, low_resolution=None)
        model = replace(
            recipe.model,
            frozen_layers=0,
            trainable="all",
            trainable_pattern=None,
            unfreeze_every=None,
            patch_drop=0.0,
        )
        return RecipeVariant(
            replace(
                recipe,
                data=data,
                method="full",
                adapter=None,
                model=model,
                objective=replace(recipe.objective, r_drop=0.0, contrast=0.0, mix=()),
                regularize=Regularize(),
                optim=Optim(),
                averaging=Averaging(),
                train=replace(recipe.train, learning_rate=None),
            )
        )


def _replace(data: TextData | ImageData, **fields: Any) -> TextData | ImageData:
    return replace(data, **fields)
