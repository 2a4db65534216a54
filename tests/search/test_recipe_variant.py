"""Variants of a recipe on the rungs of the ladder, and with seeds."""

import math
from dataclasses import replace

import pytest

from hf_finetune import Distill, Hub, InputError, Mixup, Model, Recipe, Search, Supervised, SwapWords, TextData, run
from hf_finetune.config.rules import check, unused_options
from hf_finetune.features.config import BoostedTrees, Classical
from hf_finetune.search.recipe_variant import RecipeVariant

AUTO = Recipe(
    name="a",
    data=TextData(path="x", augment=(SwapWords(),)),
    model=Model("m"),
    method="auto",
    objective=Supervised(mix=(Mixup(),)),
    hub=Hub(repo_id="me/a"),
    search=Search(budget="90s"),
)


def test_variants_of_rungs() -> None:
    variant = RecipeVariant(AUTO)
    assert variant.climbs and variant.budget_s("5m") == 90
    head, full = variant.for_rung("head").recipe, variant.for_rung("full", seconds=12.6).with_length(1.5).recipe
    assert head.method == "head" and not head.data.augment and not head.objective.mix
    assert full.data == AUTO.data and full.objective == AUTO.objective and full.name == "a"
    assert (full.train.max_time, full.train.num_train_epochs) == ("13s", 1.5) and head.train.max_time is None
    assert full.hub.repo_id is None and full.search == Search()
    check(head)
    limited = RecipeVariant(replace(AUTO, train=replace(AUTO.train, max_time="10s")))
    assert limited.for_rung("full", seconds=12.6).recipe.train.max_time == "10s"
    assert limited.for_rung("full", seconds=4.2).recipe.train.max_time == "4s"
    # The schedule ends with the time of a rung; with the user's own limit it is that of all steps.
    assert full.train.fit_schedule and not limited.for_rung("full", seconds=12.6).recipe.train.fit_schedule


def test_a_student_has_no_other_teacher() -> None:
    """It would be full fine-tuning again, under the name of an ensemble that it does not learn from."""
    student = RecipeVariant(AUTO).with_teachers(("a", "b"))
    assert student.recipe.objective == Distill(teacher=("a", "b"), mix=(Mixup(),))
    with pytest.raises(InputError, match="teacher of its own"):
        student.with_teachers(("c",))


def test_a_classical_rung_keeps_nothing_of_a_network() -> None:
    data = replace(AUTO.data, features=("price",))
    variant = RecipeVariant(replace(AUTO, data=data, train=replace(AUTO.train, learning_rate=1e-4, seed=3)))
    recipe = variant.for_classical(Classical(BoostedTrees())).recipe
    check(recipe)
    assert recipe.method == "classical" and recipe.classical.classifier == BoostedTrees()
    assert recipe.data.features == ("price",) and not recipe.data.augment and recipe.hub.repo_id is None
    assert recipe.train.seed == 3 and recipe.train.learning_rate is None and unused_options(recipe) == ()
    # Networks do not read the column, which their recipe would be refused with.
    head = variant.for_rung("head").recipe
    check(head)
    assert head.data.features == ()


def test_budgets_and_presets() -> None:
    assert RecipeVariant(replace(AUTO, search=Search())).budget_s("5m") == 300
    preset = RecipeVariant(replace(AUTO, method="full", search=Search(preset="fast")))
    assert preset.climbs and math.isinf(preset.budget_s("5m"))
    assert not RecipeVariant(replace(AUTO, method="full", search=Search())).climbs
    seeds = RecipeVariant(replace(AUTO, search=Search(seeds=3), train=replace(AUTO.train, seed=7)))
    assert list(seeds.seeds) == [7, 8, 9] and seeds.with_seed(8).recipe.train.seed == 8


def test_refusals() -> None:
    with pytest.raises(InputError, match="method: expected full, lora, top or head here: only `train` and `run`"):
        check(AUTO)
    with pytest.raises(InputError, match=r"search\.seeds: expected none with method auto, got 3"):
        run(replace(AUTO, search=Search(seeds=3)))
    with pytest.raises(InputError, match=r"search\.seeds: expected null with method classical, got 2"):
        run(replace(AUTO, method="classical", search=Search(seeds=2)))
    for field, value in (("budget", "soon"), ("preset", "slow"), ("seeds", 0)):
        with pytest.raises(InputError, match=rf"{field}: expected"):
            Search(**{field: value})
