"""Which script a run starts early."""

from dataclasses import replace

import pytest

from hf_finetune import Model, Recipe, Search, TextData
from hf_finetune.features.config import Classical
from hf_finetune.hub import plain_classical, plain_loading
from hf_finetune.hub.plain_scripts import CLASSICAL, NETWORK
from hf_finetune.search.first_gate import first_gate
from hf_finetune.search.recipe_variant import RecipeVariant
from hf_finetune.utils.fresh_process import in_fresh_process, started_early

RECIPE = Recipe(name="a", data=TextData(path="x"), model=Model("m"), method="auto")


@pytest.mark.parametrize(("budget", "expected"), [("30s", NETWORK), ("5m", CLASSICAL), (None, CLASSICAL)])
def test_of_a_climb_it_is_that_of_the_model_that_is_written_first(budget, expected) -> None:
    assert first_gate(RecipeVariant(replace(RECIPE, search=Search(budget=budget)))) == expected


def test_of_a_single_run_it_is_known_where_nothing_trains() -> None:
    assert first_gate(RecipeVariant(replace(RECIPE, method="full"))) is None
    assert first_gate(RecipeVariant(replace(RECIPE, method="classical", classical=Classical()))) == CLASSICAL
    assert first_gate(RecipeVariant(replace(RECIPE, method="full", search=Search(preset="fast")))) == CLASSICAL


def test_the_scripts_are_there() -> None:
    assert (str(NETWORK), str(CLASSICAL)) == (plain_loading.__file__, plain_classical.__file__)


@pytest.mark.parametrize("script", [NETWORK, CLASSICAL])
def test_they_wait_for_their_job(script, tmp_path) -> None:
    with started_early(script), in_fresh_process(script, tmp_path / "missing.json") as end:
        error = end()
    assert error is not None and error.startswith("FileNotFoundError") and "missing.json" in error
