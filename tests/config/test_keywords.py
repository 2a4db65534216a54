"""Keywords of Python name the fields of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_finetune import Distill, ImageData, InputError, Lion, Model, Recipe, SwapWords, TextData, Train
from hf_finetune.config.keywords import field_names, with_keywords

TEXTS = Recipe(name="", data=TextData(path="x"), model=Model(checkpoint="bert"))
IMAGES = Recipe(name="", data=ImageData(path="x"), model=Model(checkpoint="vit"))


@pytest.mark.parametrize(
    ("keyword", "value", "field"),
    [
        ("learning_rate", 1e-4, "train.learning_rate"),
        ("epochs", 2.5, "train.num_train_epochs"),
        ("seed", 3, "train.seed"),
        ("model", "deberta", "model.checkpoint"),
        ("max_length", 64, "data.max_length"),
        ("text_pair", "b", "data.text_pair"),
        ("revision", "v2", "data.revision"),
        ("push", "me/x", "hub.repo_id"),
        ("private", True, "hub.private"),
        ("mixed_precision", "no", "precision.mixed_precision"),
        ("r", 4, "lora.r"),
        ("label_smoothing", 0.1, "objective.label_smoothing"),
        ("augment", (SwapWords(p=0.2),), "data.augment"),
        ("objective", Distill(teacher="t"), "objective"),
        ("train.learning_rate", 1e-4, "train.learning_rate"),
        ("unlabelled", ("a.csv",), "data.unlabeled"),
        ("lr", 1e-4, "train.learning_rate"),
        ("batch_size", 8, "train.per_device_train_batch_size"),
        ("warmup", 10, "train.warmup_steps"),
        ("text_column", "review", "data.text"),
    ],
)
def test_names(keyword: str, value: Any, field: str) -> None:
    changed: Any = with_keywords(TEXTS, {keyword: value})
    for part in field.split("."):
        changed = getattr(changed, part)
    assert changed == value


def test_sections_and_fields_together() -> None:
    recipe = with_keywords(
        TEXTS,
        {
            "learning_rate": 1e-4,
            "train": Train(weight_decay=0.2, learning_rate=1e-3),
            "optim": {"optimizer": "Lion"},
            "model": Model(checkpoint="electra", dropout=0.2),
            "augment": ["SwapWords"],
            "teacher": Path("teacher"),
            "labels_weight": 0.3,
            "seed": np.int64(7),
        },
    )
    assert (recipe.train.weight_decay, recipe.train.learning_rate, recipe.train.seed) == (0.2, 1e-4, 7)
    assert recipe.optim.optimizer == Lion() and recipe.model.dropout == 0.2 and recipe.data.augment == (SwapWords(),)
    assert recipe.objective == Distill(teacher="teacher", labels_weight=0.3)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"learning_rat": 1}, "learning_rat: no such keyword, did you mean 'learning_rate'?"),
        ({"xyzzy": 1}, "xyzzy: no such keyword; see hf_finetune.Recipe"),
        ({"license": "mit"}, "license: several fields have this name; write data={'license': ...} or hub={'license': ...}"),
        ({"dropout": 0.1}, "dropout: several fields have this name; write model={'dropout': ...} or lora={'dropout': ...}"),
        ({"epochs": "3"}, "train.num_train_epochs: expected a number above 0 and at most 1000000 or null, got '3'"),
        ({"train": 3}, "train: expected a mapping of fields, got 3"),
        ({"model": {"checkpoit": "x"}}, "model.checkpoit: no such field, did you mean 'checkpoint'?"),
    ],
)  # fmt: skip
def test_refusals(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        with_keywords(TEXTS, keywords)
    assert str(error.value) == message


def test_only_the_fields_of_the_data_at_hand() -> None:
    assert "max_length" not in field_names(IMAGES) and "image_root" not in field_names(TEXTS)


def test_few_names_are_ambiguous() -> None:
    """A new field should not take a common name away; give one of them a flag, or another name."""
    names = {**field_names(TEXTS), **field_names(IMAGES)}
    assert {name for name, fields in names.items() if len(fields) > 1} == {"license", "model", "dropout", "extra"}
