"""What a climb computes before its first rung, and what a killed one takes up."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.small_runs import small_recipe

from hf_finetune import Model, Recipe, TextData
from hf_finetune.pipeline.context import RunInput
from hf_finetune.pipeline.run import prepare
from hf_finetune.search.budget import Budget
from hf_finetune.search.ladder import climb as module
from hf_finetune.search.ladder.climb import Climb
from hf_finetune.search.ladder.state import LadderState
from hf_finetune.search.recipe_variant import RecipeVariant
from hf_finetune.training import precision
from hf_finetune.training.precision import settings_restored


@pytest.mark.parametrize(("setting", "switched"), [("auto", "medium"), ("highest", "highest")])
def test_rows_are_read_with_the_float32_of_the_recipe(
    setting: str, switched: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it names none, with the fastest exact one."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    monkeypatch.setattr(precision, "matmul_error", lambda _: 0.0)
    monkeypatch.setattr(module, "load_input", lambda *_, **__: torch.get_float32_matmul_precision())
    recipe = Recipe(name="a", data=TextData(path="x"), model=Model("m"), method="auto")
    recipe = replace(recipe, precision=replace(recipe.precision, float32_matmul=setting))
    with settings_restored():
        assert module._load(RecipeVariant(recipe), Budget(30)) == switched


def test_a_killed_climb_takes_up_the_head_that_was_only_a_start(tmp_path: Path) -> None:
    """No rung has it, and another fit would be of other rows."""
    base = RecipeVariant(replace(small_recipe(tmp_path), method="head"))
    first = prepare(base.recipe)
    state = LadderState(tmp_path / "rungs")
    state.folder.mkdir()
    standing = SimpleNamespace(state=state, budget=Budget(30), record=state.rungs.append, take_up=lambda: None)
    inputs = base, RunInput(first.context, first.data), standing, None
    killed, resumed = Climb(*inputs, first), Climb(*inputs, None)
    killed._start_head()
    resumed._take_up()
    assert [rung.folder for rung in state.rungs] == [None]
    assert torch.equal(resumed.heads[0].weight_CD, killed.heads[0].weight_CD)
