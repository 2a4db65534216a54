"""What a plan adds up, and that it leaves nothing behind."""

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
def test_a_plan_leaves_nothing_behind(
    recipe: Recipe, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    made = plan.plan(prepare(replace(recipe, method=method)))
    assert made.steps == 21 and made.rows == {"train": 54, "validation": 6, "test": 0}
    estimate, parts = made.estimate, made.parts
    assert estimate["train_loop_s"] > 0 and all(seconds >= 0 for seconds in parts.values())
    assert estimate["total_s"] == pytest.approx(estimate["train_loop_s"] + sum(parts.values()), rel=0.05)
    assert parts["cache_s"] == 0 or method == "top"
    assert parts["head_s"] > 0
    assert not list(tmp_path.rglob("*")) and logging.getLogger("hf_finetune.run").isEnabledFor(logging.CRITICAL)
    assert os.environ["HF_FINETUNE_CACHE"] == str(tmp_path / "cache")


def test_stored_copies_are_rows_and_take_time(recipe: Recipe) -> None:
    data = replace(recipe.data, augment=(SwapWords(0.5),), augment_copies=2)
    made = plan.plan(prepare(replace(recipe, data=data)))
    assert made.rows["train"] == 3 * 54 and made.steps == 3 * 21 and made.parts["augment_s"] > 0


def test_the_parts_are_added_up(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
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
    seen = {}

    def measure_costs(run, encoded, epoch, steps):
        seen["sizes"] = step_sizes(run, epoch.step_rows(), run.data.inputs.lengths(encoded))
        return costs

    monkeypatch.setattr(plan, "measure_costs", measure_costs)
    made = plan.plan(prepare(recipe))
    # Seven steps an epoch, three epochs.
    assert len(seen["sizes"]) == 7
    assert made.estimate["train_loop_s"] == pytest.approx(3 * (7 * 2.0 + 0.5 * seen["sizes"].sum()), rel=0.01)
    assert {name: made.parts[name] for name in ("head_s", "cache_s", "validation_s")} == {
        "head_s": 54 * 0.25 + 2.0,
        "cache_s": 6.0,
        "validation_s": pytest.approx(3 * 6 * 0.25),
    }
    assert made.parts["evaluate_s"] == pytest.approx(6 * 0.5 + 6 * 100 * 0.01)
    assert made.parts["baselines_s"] == pytest.approx((54 + 6) * 0.1)


def test_a_teacher_answers_once_or_every_view(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second a row: 54 and 6 of them once, or the 6 once and 54 in each of three epochs; the loop waits for
    none."""
    prepared = replace(prepare(recipe), teachers=object())
    costs = RunCosts(prepared.model.network, "no", StepTimes(9.0, 0.0, 1.0), teacher_s=0.5)
    monkeypatch.setattr(plan, "measure_costs", lambda *_: costs)
    for changes, asked in ((False, 54 + 6), (True, 3 * 54 + 6)):
        data = replace(recipe.data, augment=(SwapWords(),)) if changes else recipe.data
        made = plan.plan(prepared.variant(recipe=replace(recipe, data=data)))
        estimate = made.estimate
        assert made.parts["teacher_s"] == estimate["teacher_s"] == asked * 0.5
        assert estimate["train_loop_s"] == estimate["student_s"] == 3 * 7 * 9.0
        shown = str(made).splitlines()
        assert f"teacher       about {plan._duration(asked * 0.5)}" in shown
        assert f"student       about {plan._duration(3 * 7 * 9.0)}" in shown
    alone = plan.plan(replace(prepared, teachers=None))
    assert "teacher_s" not in alone.estimate and "student  " not in str(alone)


def test_gradual_unfreezing_costs_less(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """21 steps, a layer more every 7: none, one, then two of four groups below the head go back, a quarter on
    average."""

    monkeypatch.setattr(
        plan, "measure_costs", lambda run, *_: RunCosts(run.model.network, "no", StepTimes(2.0, 0.0, 1.0))
    )
    whole = plan.plan(prepare(recipe))
    gradual = plan.plan(prepare(replace(recipe, model=replace(recipe.model, unfreeze_every=1.0))))
    assert whole.estimate["train_loop_s"] == 21 * 2.0
    assert gradual.estimate["train_loop_s"] == 21 * 2.0 * (1 + 2 * 0.25) / 3
    # The embeddings and the lowest layer do not get their turn, as result.json will have it.
    encoder = load_file(Path(recipe.model.checkpoint) / "model.safetensors")
    late = sum(tensor.numel() for n, tensor in encoder.items() if n.startswith(("embeddings.", "encoder.layer.0.")))
    assert whole.parameters["trained"] - gradual.parameters["trained"] == late


def test_no_step_is_thought_faster_than_half_the_fastest() -> None:
    assert StepTimes(-5.0, 1.0, 2.0).total(np.array([1.0, 10.0])) == 1.0 + 5.0
