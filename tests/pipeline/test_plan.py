"""The estimates of a plan, and that it writes nothing."""

import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.small_runs import small_recipe
from safetensors.torch import load_file

from hf_finetune import Recipe
from hf_finetune.augmentation.text.words import SwapWords
from hf_finetune.pipeline import plan
from hf_finetune.pipeline.measure_costs import RunCosts, StepTimes, step_sizes
from hf_finetune.pipeline.run import prepare


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Three epochs, with baselines."""
    small = small_recipe(tmp_path_factory.mktemp("input"))
    return replace(
        small, train=replace(small.train, num_train_epochs=3.0), evaluate=replace(small.evaluate, baselines=True)
    )


@pytest.mark.parametrize("method", ["full", "top", "lora"])
def test_a_plan_writes_nothing(recipe: Recipe, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    planned = plan.plan(prepare(replace(recipe, method=method)))
    assert planned.steps == 21 and planned.rows == {"train": 54, "validation": 6, "test": 0}
    estimate, parts = planned.estimate, planned.parts
    assert estimate["train_loop_s"] > 0 and all(seconds >= 0 for seconds in parts.values())
    assert estimate["total_s"] == pytest.approx(estimate["train_loop_s"] + sum(parts.values()), rel=0.05)
    assert parts["cache_s"] == 0 or method == "top"
    assert parts["head_s"] > 0
    assert not list(tmp_path.rglob("*")) and logging.getLogger("hf_finetune.run").isEnabledFor(logging.CRITICAL)
    assert os.environ["HF_FINETUNE_CACHE"] == str(tmp_path / "cache")


def test_augmented_copies_count_as_rows_and_take_time(recipe: Recipe) -> None:
    data = replace(recipe.data, augment=(SwapWords(0.5),), augment_copies=2)
    planned = plan.plan(prepare(replace(recipe, data=data)))
    assert planned.rows["train"] == 3 * 54 and planned.steps == 3 * 21 and planned.parts["augment_s"] > 0


def test_parts_follow_from_the_measured_costs(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing:
        def parameters(self):
            return iter(())

    costs = RunCosts(
        network=Nothing(),
        mixed_precision="no",
        steps=StepTimes(base_s=2.0, slope_s=0.5, least_s=1.0),
        head_s=2.0,
        cache_s=1 / 9,
        score_s=0.25,
        evaluate_s=0.5,
        interval_s=0.01,
        baseline_s=0.1,
    )
    sizes_of = {}

    def measure_costs(run, encoded, epoch, steps):
        sizes_of["steps"] = step_sizes(run, epoch.step_rows(), run.data.inputs.lengths(encoded))
        return costs

    monkeypatch.setattr(plan, "measure_costs", measure_costs)
    planned = plan.plan(prepare(recipe))
    # Seven steps an epoch, three epochs.
    assert len(sizes_of["steps"]) == 7
    assert planned.estimate["train_loop_s"] == pytest.approx(3 * (7 * 2.0 + 0.5 * sizes_of["steps"].sum()), rel=0.01)
    assert {name: planned.parts[name] for name in ("head_s", "cache_s", "validation_s")} == {
        "head_s": 54 * 0.25 + 2.0,
        "cache_s": 6.0,
        "validation_s": pytest.approx(3 * 6 * 0.25),
    }
    assert planned.parts["evaluate_s"] == pytest.approx(6 * 0.5 + 6 * 100 * 0.01)
    assert planned.parts["baselines_s"] == pytest.approx((54 + 6) * 0.1)
    # Three folds train on two thirds of all rows each, and the run on all: 3 x 60 rows in place of 54.
    folds = plan.plan(prepare(replace(recipe, evaluate=replace(recipe.evaluate, folds=3))))
    once = folds.estimate["train_loop_s"] + sum(folds.parts[name] for name in ("encode_s", "head_s", "validation_s"))
    assert folds.parts["folds_s"] == pytest.approx(once * (3 * 60 / 54 - 1), rel=0.01)


def test_a_teacher_predicts_each_row_once_or_every_view(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """At half a second a row: 54 and 6 rows once, or the 6 once and the 54 in each of three epochs. The loop does not
    include it."""
    prepared = replace(prepare(recipe), teachers=object())
    costs = RunCosts(prepared.model.network, "no", StepTimes(9.0, 0.0, 1.0), teacher_s=0.5)
    monkeypatch.setattr(plan, "measure_costs", lambda *_: costs)
    for is_online, predicted, takes in ((False, 54 + 6, "30 s"), (True, 3 * 54 + 6, "1 min 24 s")):
        data = replace(recipe.data, augment=(SwapWords(),)) if is_online else recipe.data
        planned = plan.plan(prepared.variant(recipe=replace(recipe, data=data)))
        estimate = planned.estimate
        assert planned.parts["teacher_s"] == estimate["teacher_s"] == predicted * 0.5
        assert estimate["train_loop_s"] == estimate["student_s"] == 3 * 7 * 9.0
        lines = str(planned).splitlines()
        assert f"teacher       about {takes}" in lines
        assert "student       about 3 min 9 s" in lines
    without_teacher = plan.plan(replace(prepared, teachers=None))
    assert "teacher_s" not in without_teacher.estimate and "student  " not in str(without_teacher)


def test_gradual_unfreezing_costs_less(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another layer every 7 of 21 steps: 0, 1, then 2 of the four groups below the head train, a quarter on average."""

    monkeypatch.setattr(
        plan, "measure_costs", lambda run, *_: RunCosts(run.model.network, "no", StepTimes(2.0, 0.0, 1.0))
    )
    at_once = plan.plan(prepare(recipe))
    gradual = plan.plan(prepare(replace(recipe, model=replace(recipe.model, unfreeze_every=1.0))))
    assert at_once.estimate["train_loop_s"] == 21 * 2.0
    assert gradual.estimate["train_loop_s"] == 21 * 2.0 * (1 + 2 * 0.25) / 3
    # The embeddings and the lowest layer stay frozen, which result.json counts as well.
    encoder = load_file(Path(recipe.model.checkpoint) / "model.safetensors")
    frozen = sum(tensor.numel() for n, tensor in encoder.items() if n.startswith(("embeddings.", "encoder.layer.0.")))
    assert at_once.parameters["trained"] - gradual.parameters["trained"] == frozen


def test_no_step_is_estimated_at_less_than_half_the_fastest() -> None:
    assert StepTimes(-5.0, 1.0, 2.0).total(np.array([1.0, 10.0])) == 1.0 + 5.0
