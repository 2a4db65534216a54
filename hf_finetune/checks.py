"""What no type can refuse: ranges of a recipe's fields, and combinations of them."""

from __future__ import annotations

import math
import re
from typing import Any

from hf_finetune.codec import flatten, to_plain
from hf_finetune.errors import InputError
from hf_finetune.recipe import ImageData, Recipe, TextData


def check(recipe: Recipe) -> None:
    """Refuse values that no type can: ranges and combinations.

    Raises:
        InputError: naming the field, the value and the range.
    """
    train, data, model = recipe.train, recipe.data, recipe.model

    def refuse(name: str, value: Any, expected: str) -> None:
        raise InputError(f"{name}: expected {expected}, got {value!r}")

    for name, value in flatten(to_plain(recipe)).items():
        if isinstance(value, float) and not math.isfinite(value):
            refuse(name, value, "a finite number")
    if train.learning_rate is not None and not 0 < train.learning_rate < math.inf:
        refuse("train.learning_rate", train.learning_rate, "a number above 0")
    if not train.num_train_epochs > 0:
        refuse("train.num_train_epochs", train.num_train_epochs, "a number above 0")
    for name in (
        "per_device_train_batch_size",
        "per_device_eval_batch_size",
        "gradient_accumulation_steps",
        "logging_steps",
    ):
        if getattr(train, name) < 1:
            refuse(f"train.{name}", getattr(train, name), "at least 1")
    for name in ("warmup_steps", "weight_decay", "max_grad_norm"):
        if getattr(train, name) < 0:
            refuse(f"train.{name}", getattr(train, name), "0 or more")
    if train.max_steps == 0 or train.max_steps < -1:
        refuse("train.max_steps", train.max_steps, "at least 1, or -1 for as many as the epochs have")
    if train.early_stopping_patience is not None and train.early_stopping_patience < 1:
        refuse("train.early_stopping_patience", train.early_stopping_patience, "at least 1")
    for name, seed in (("train.seed", train.seed), ("data.split_seed", data.split_seed)):
        if not 0 <= seed < 2**32:
            refuse(name, seed, "a whole number from 0 to 4294967295")
    if not 0 <= recipe.objective.label_smoothing < 1:
        refuse("objective.label_smoothing", recipe.objective.label_smoothing, "at least 0 and below 1")
    for name in ("validation_fraction", "test_fraction"):
        if not 0 <= getattr(data, name) < 1:
            refuse(f"data.{name}", getattr(data, name), "at least 0 and below 1")
    if data.max_train_rows is not None and data.max_train_rows < 2:
        refuse("data.max_train_rows", data.max_train_rows, "at least 2")
    if isinstance(data, TextData) and data.max_length < 4:
        refuse("data.max_length", data.max_length, "at least 4 tokens")
    if model.dropout is not None and not 0 <= model.dropout < 1:
        refuse("model.dropout", model.dropout, "at least 0 and below 1")
    if model.frozen_layers < 0:
        refuse("model.frozen_layers", model.frozen_layers, "0 or more")
    if model.top_layers < 0:
        refuse("model.top_layers", model.top_layers, "0 or more")
    if model.frozen_layers and recipe.method == "top":
        refuse("model.frozen_layers", model.frozen_layers, "0 with method top, which freezes all but model.top_layers")
    if not recipe.batching.cache_gb > 0:
        refuse(
            "batching.cache_gb", recipe.batching.cache_gb, "a number above 0; batching.cache_prefix false turns it off"
        )
    if model.base_model is not None and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model.base_model):
        refuse("model.base_model", model.base_model, "a Hub id like google-bert/bert-base-uncased")
    if not 0 <= model.patch_drop < 1:
        refuse("model.patch_drop", model.patch_drop, "at least 0 and below 1")
    if model.patch_drop and isinstance(data, TextData):
        refuse("model.patch_drop", model.patch_drop, "0 for texts")
    if isinstance(data, ImageData) and data.low_resolution is not None and data.low_resolution < 8:
        refuse("data.low_resolution", data.low_resolution, "at least 8 pixels")
    if isinstance(data, ImageData) and not 0 < data.low_resolution_share <= 1:
        refuse("data.low_resolution_share", data.low_resolution_share, "above 0 and at most 1")
    if recipe.adapter is not None and not type(recipe.adapter).__module__.startswith("peft."):
        refuse("adapter", recipe.adapter, "a PEFT config like LoraConfig(...), in YAML {peft_type: LORA, ...}")
    if recipe.adapter is not None and recipe.method in ("top", "head"):
        refuse("method", recipe.method, "full or lora beside an adapter")
    if recipe.evaluate.resamples < 100:
        refuse("evaluate.resamples", recipe.evaluate.resamples, "at least 100")
    if recipe.evaluate.parity_rows < 1:
        refuse("evaluate.parity_rows", recipe.evaluate.parity_rows, "at least 1")
    if recipe.precision.threads is not None and recipe.precision.threads < 1:
        refuse("precision.threads", recipe.precision.threads, "at least 1")
    if recipe.batching.rows_per_step is not None:
        if recipe.batching.rows_per_step < 1:
            refuse("batching.rows_per_step", recipe.batching.rows_per_step, "at least 1")
        if train.gradient_accumulation_steps != 1:
            refuse(
                "train.gradient_accumulation_steps",
                train.gradient_accumulation_steps,
                "1 beside batching.rows_per_step, which derives it",
            )
    batching, text = recipe.batching, isinstance(data, TextData)
    if batching.token_budget is not None:
        if batching.token_budget < 1:
            refuse("batching.token_budget", batching.token_budget, "at least 1")
        if not text or not batching.by_length:
            refuse("batching.token_budget", batching.token_budget, "None for pictures and without batching.by_length")
        if batching.rows_per_step is not None:
            refuse("batching.rows_per_step", batching.rows_per_step, "None beside batching.token_budget")
    if batching.unpadded and not text:
        refuse("batching.unpadded", batching.unpadded, "false or None for pictures")
