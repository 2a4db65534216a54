"""Epochs and steps of few rows."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from transformers import TrainerControl, TrainerState

from hf_finetune import Recipe, TextData, Train
from hf_finetune.config.recipe import Model
from hf_finetune.pipeline.choose_length import choose_length
from hf_finetune.pipeline.context import RunContext, RunData
from hf_finetune.training.callbacks import SparseValidation

RECIPE = Recipe(name="few", data=TextData(path=""), model=Model(checkpoint=""))


def length(rows: int, recipe: Recipe = RECIPE, processes: int = 1) -> tuple[float | None, int | None, int, bool]:
    """Epochs, rows of a step, epochs between validations, and whether it is said."""
    context = RunContext(recipe, cast(Any, None), cast(Any, None), processes, "no", 0.0)
    data = cast(RunData, SimpleNamespace(splits=SimpleNamespace(train=range(rows))))
    chosen, note = choose_length(context, data)
    train = chosen.recipe.train
    return train.num_train_epochs, chosen.recipe.batching.rows_per_step, train.validate_every, note is not None


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (3000, (3, None, 1, False)),
        # 34 steps of 32 an epoch are enough.
        (1060, (3, None, 1, False)),
        # 3 x 63 steps of 16, 3 x 57 of 8.
        (1000, (3, 16, 1, True)),
        (450, (3, 8, 1, True)),
        # 25 steps of 8 an epoch.
        (200, (4, 8, 1, True)),
        # 2 steps an epoch, validated after every fifth.
        (16, (50, 8, 5, True)),
        (1, (100, 8, 10, True)),
    ],
)
def test_few_rows_make_at_least_a_hundred_steps(rows: int, expected: tuple) -> None:
    assert length(rows) == expected


def test_what_is_set_stays() -> None:
    """Epochs; the size of a step, whichever field says it; and steps of tokens, which are unknown before encoding."""
    assert length(16, replace(RECIPE, train=Train(num_train_epochs=2))) == (2, None, 1, False)
    assert length(16, replace(RECIPE, train=Train(max_steps=5))) == (None, None, 1, False)
    assert length(320, replace(RECIPE, train=Train(per_device_train_batch_size=16))) == (5, None, 1, True)
    assert length(320, replace(RECIPE, batching=replace(RECIPE.batching, rows_per_step=32))) == (10, 32, 1, True)
    assert length(16, replace(RECIPE, batching=replace(RECIPE.batching, token_budget=512))) == (3, None, 1, False)
    assert length(1000, processes=2) == (3, 16, 1, True)
    # Patience counts validations.
    assert length(16, replace(RECIPE, train=Train(early_stopping_patience=3))) == (50, 8, 1, True)


def test_every_process_has_a_row_of_each_step() -> None:
    """20 rows in steps of at most 8 are steps of 6 and 7."""
    _, size, _, _ = length(20, processes=8)
    assert size is not None and 20 // -(-20 // size) >= 8


def test_the_last_epoch_is_validated() -> None:
    """And those between only as often as asked."""
    callback, validated = SparseValidation(3), []
    for epoch in range(1, 9):
        control = TrainerControl(should_evaluate=True, should_save=True)
        state = TrainerState(epoch=float(epoch), global_step=2 * epoch, max_steps=16)
        callback.on_epoch_end(cast(Any, None), state, control)
        assert control.should_evaluate == control.should_save
        validated += [epoch] * control.should_evaluate
    assert validated == [3, 6, 8]
