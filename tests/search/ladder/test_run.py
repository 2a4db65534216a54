"""The input of a climb."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hf_finetune import Model, Recipe, TextData
from hf_finetune.search.budget import Budget
from hf_finetune.search.ladder import run as module
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
        assert module.load(RecipeVariant(recipe), Budget(30), LadderState(Path())) == switched


def test_a_resumed_climb_with_more_time_compares_what_the_head_reads_on_as_many_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would read something else than the rungs that were climbed."""
    monkeypatch.setattr(module, "load_input", lambda *_, compared_rows, **__: compared_rows())
    base = RecipeVariant(Recipe(name="a", data=TextData(path="x"), model=Model("m"), method="auto"))
    state = LadderState(tmp_path)
    with settings_restored():
        assert module.load(base, Budget(30), state) == 0
        state.save()
        assert module.load(base, Budget(900), LadderState.read(tmp_path)) == 0
        assert module.load(base, Budget(900), LadderState(tmp_path)) == 1_000
