"""The user's recipe as a search changes it. No other module of the search knows the recipe's type."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from hf_finetune.augmentation.compose import Augmentation
from hf_finetune.augmentation.mixing import Mixing
from hf_finetune.config.data import ImageData, TextData
from hf_finetune.config.recipe import Recipe
from hf_finetune.models.surgery.patches import ResizeImage
from hf_finetune.training.config import Averaging
from hf_finetune.training.optim.config import Optim
from hf_finetune.training.optim.schedule_config import in_proportion, of_shorter_run
from hf_finetune.training.regularization.config import Regularize


@dataclass(frozen=True)
class SearchedRecipe:
    """A recipe, and the variants of it that a search trains."""

    recipe: Recipe

    @property
    def low_resolution(self) -> bool:
        """Whether it trains on smaller images at first."""
        return self.recipe.data.kind == "image" and self.recipe.data.low_resolution is not None

    def with_policy(self, augment: tuple[Augmentation, ...], mix: tuple[Mixing, ...]) -> SearchedRecipe:
        """With what a policy sets."""
        recipe = self.recipe
        objective = replace(recipe.objective, mix=mix)
        return SearchedRecipe(replace(recipe, data=_changed(recipe.data, augment=augment), objective=objective))

    def with_side(self, side: int) -> SearchedRecipe:
        """For images of so many pixels a side."""
        recipe = self.recipe
        assert recipe.data.kind == "image", "images alone have a side"
        model = replace(recipe.model, surgery=(*recipe.model.surgery, ResizeImage(side)))
        return SearchedRecipe(replace(recipe, data=replace(recipe.data, low_resolution=None), model=model))

    def of_steps(self, steps: int, *, seed: int, whole: int) -> SearchedRecipe:
        """A run of so many steps that chooses nothing on validation rows, neither an epoch nor an average of weights.

        Args:
            whole: steps of the recipe's own run; what its rate does over them it does here over fewer.
        """
        recipe, train, part = self.recipe, self.recipe.train, steps / whole
        warmup_steps = None if train.warmup_steps is None else in_proportion(train.warmup_steps, part)
        shorter = replace(train, seed=seed, max_steps=steps, warmup_steps=warmup_steps, early_stopping_patience=None)
        schedule = of_shorter_run(train.lr_scheduler_type, recipe.schedule, part)
        return SearchedRecipe(replace(recipe, train=shorter, schedule=schedule, averaging=Averaging()))

    def of_few_rows(self, steps: int, rows: int, augment: tuple[Augmentation, ...]) -> SearchedRecipe:
        """A run of so many steps of so many rows, to measure what steps cost."""
        recipe = self.recipe
        train = replace(recipe.train, max_steps=steps, gradient_accumulation_steps=1, early_stopping_patience=None)
        batching = replace(recipe.batching, rows_per_step=rows, token_budget=None)
        data = _changed(recipe.data, augment=augment)
        return SearchedRecipe(replace(recipe, data=data, batching=batching, train=train, averaging=Averaging()))

    def proxy(self) -> SearchedRecipe:
        """Without all that makes its steps more expensive or its rows others: what trials load."""
        recipe, data = self.recipe, _changed(self.recipe.data, augment=(), augment_copies=0)
        if data.kind == "image":
            data = replace(data, low_resolution=None)
        model = replace(recipe.model, frozen_layers=0, trainable="all", trainable_pattern=None, unfreeze_every=None)
        return SearchedRecipe(
            replace(
                recipe,
                data=data,
                method="full",
                adapter=None,
                model=replace(model, patch_drop=0.0),
                objective=replace(recipe.objective, r_drop=0.0, mix=()),
                regularize=Regularize(),
                optim=Optim(),
                averaging=Averaging(),
                train=replace(recipe.train, learning_rate=None),
            )
        )


def _changed(data: TextData | ImageData, **fields: Any) -> TextData | ImageData:
    return replace(data, **fields)
