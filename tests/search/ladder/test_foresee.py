"""What a climb would do, by costs that a person can add, and on real rows."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.small_runs import text_rows
from helpers.tiny import tiny_text_checkpoint

import hf_finetune
from hf_finetune.errors import InputError
from hf_finetune.search.ladder.costs import RungCost, Scoring
from hf_finetune.search.ladder.foresee import NetworkCosts, PlannedClock, foresee
from hf_finetune.search.recipe_variant import SingleMethod

METHODS: tuple[SingleMethod, ...] = ("top", "lora", "full")
COSTS = {"full": RungCost(40.0, 2.0, 8.0, 100), "lora": RungCost(30.0, 2.0, 8.0, 100), "top": RungCost(3, 12, 8, 100)}
SCORING = Scoring(0.01, {"train": 1000, "validation": 100}, 3.5)


def planned(budget_s: float, *, folds: int | None = None, joins: bool = False, **options: Any) -> dict[str, Any]:
    clock = PlannedClock(budget_s, 10.0)
    costs = NetworkCosts(SCORING, COSTS.__getitem__, lambda rows: 5 + rows * 0.01, folds, joins)
    foresee(clock, {"linear": 4.0}, costs, METHODS, epochs=3, **options)
    return {rung.name: rung for rung in clock.rungs} | {"clock": clock, "costs": costs}


def test_rungs_follow_each_other_within_the_budget() -> None:
    rungs = planned(1000)
    assert [rungs[name].ends_s for name in ("linear", "head", "top", "lora", "full")] == [14, 29, 58, 158, 288]
    assert rungs["full"].epochs == 3 and rungs["clock"].left_s == pytest.approx(712, abs=0.1)
    # Both together cost next to nothing.
    assert planned(1000, joins=True)["linear+head"].ends_s == 30.5
    # Without a limit all are climbed.
    assert all(planned(math.inf)[name].seconds for name in COSTS)


def test_what_is_left_has_its_reason() -> None:
    rungs = planned(100, ensemble=True)
    assert "full fine-tuning needs the time" in rungs["lora"].reason and rungs["lora"].seconds is None
    assert rungs["full"].epochs < 3 and rungs["full"].ends_s <= 100
    assert "mean of some rungs is better" in rungs["student"].reason
    short = planned(16)
    assert short["head"].seconds is None and "a network takes 5 s at least" in short["head"].reason


def test_a_second_run_follows_if_half_of_the_first_one_fits() -> None:
    """Full fine-tuning ends at 288 s, and takes 10 s beside 40 s an epoch."""
    whole = planned(1000, averages=True)["soup"]
    assert (whole.seconds, whole.ends_s, whole.epochs) == (
        130,
        418,
        3,
    ) and "if full fine-tuning is the best" in whole.reason
    # 92% of 94 s, less 10 s, hold 1.9 epochs; of 64 s, 1.2.
    assert planned(382, averages=True)["soup"].epochs == pytest.approx(1.91, abs=0.01)
    assert planned(352, averages=True)["soup"].reason == "left: there is time for 1.2 epochs of a second run, of 3"
    assert "it would take" in planned(100, averages=True)["soup"].reason
    assert "soup" not in planned(1000, averages=True, folds=3) and "soup" not in planned(1000)


def test_a_head_may_be_left_for_full_fine_tuning_but_not_with_folds() -> None:
    scoring = Scoring(0.01, {"train": 1000, "validation": 1000}, 3.5)
    for folds, word in ((None, "left: full fine-tuning needs the time"), (3, "a linear head on frozen features")):
        clock = PlannedClock(60, 10.0)
        costs = NetworkCosts(scoring, COSTS.__getitem__, lambda rows: 5.0, folds)
        foresee(clock, {"linear": 4.0}, costs, METHODS, epochs=3)
        assert clock.rungs[1].reason.startswith(word)


def test_what_is_written_at_the_end_is_left_free_in_each_rung_and_not_spent() -> None:
    costs = NetworkCosts(replace(SCORING, later_s=6.0), COSTS.__getitem__, lambda rows: 11 + rows * 0.01, None)
    clock = PlannedClock(1000, 10.0)
    foresee(clock, {"linear": 4.0}, costs, METHODS, epochs=3)
    assert [rung.ends_s for rung in clock.rungs[:3]] == [14, 29, 52]


def test_a_head_is_the_first_model_where_no_other_one_can_be_saved() -> None:
    """Of words with tags, whose linear model is measured alone."""
    left, clock = planned(16), PlannedClock(16, 10.0)
    foresee(clock, {"linear": 4.0}, left["costs"], METHODS, epochs=3, has_model=False)
    assert left["head"].seconds is None and clock.rungs[1].name == "head" and clock.rungs[1].seconds == 7.6


def test_a_plan_of_method_auto_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = tiny_text_checkpoint(tmp_path / "bert")
    folder = tmp_path / "empty"
    folder.mkdir()
    # No run can have its folder there; a plan needs none.
    (folder / "runs").touch()
    monkeypatch.chdir(folder)
    frame = pd.DataFrame([{"text": row["text"], "label": ("bad", "good")[row["label"]]} for row in text_rows(120)])
    options: dict[str, Any] = {"model": checkpoint, "max_length": 16, "method": "auto"}
    plan = hf_finetune.plan(frame, budget="10m", **options)
    assert list(folder.iterdir()) == [folder / "runs"]
    assert [rung.name for rung in plan.rungs] == ["linear", "head", "top", "lora", "full"], "in folds no second run"
    assert plan.rungs[-1].epochs and plan.estimate["total_s"] == pytest.approx(plan.rungs[-1].ends_s, abs=1)
    assert plan.judged_by == "all 120 rows, in 5 folds" and plan.budget_s == 600
    assert "rung    seconds  ends at" in str(plan) and "of 10m" in str(plan)
    with pytest.raises(InputError, match="budgt: no such keyword, did you mean 'budget'"):
        hf_finetune.plan(frame, budgt="10m", **options)
