"""The plan of a search by hand: what was measured, what is to be done, what there is time for."""

from functools import partial

import pytest

from hf_finetune.augmentation.text.words import SwapWords
from hf_finetune.errors import InputError
from hf_finetune.search.augmentation.space import Space
from hf_finetune.search.planning import (
    MIN_TRIAL_STEPS,
    Costs,
    RunCost,
    RunPlan,
    plan_runs,
    plan_trials,
    runs_seconds,
    shortest_runs,
    sufficient_budget,
    too_expensive,
    trials_seconds,
)
from hf_finetune.search.searchers.halving import Sweep, halving_counts

SPACE = Space({name: SwapWords for name in "ABCDEFGH"})
# A run of n steps takes 2 + n + 1 seconds; three pairs of them 10 + 2 4 + 6 (3 + n) = 36 + 6 n.
PACE = Costs(
    step_s=0.1,
    rest_s=0.5,
    run=RunCost(cache_s=10.0, head_s=4.0, fixed_s=2.0, row_s=0.125, eval_row_s=0.1, rows_per_step=8, eval_rows=10),
)


def test_costs_by_hand() -> None:
    assert PACE.run.seconds(7) == pytest.approx(10.0)
    assert PACE.run.pairs_seconds(3, 7) == pytest.approx(36 + 6 * 7)
    assert PACE.run.scaled(2).pairs_seconds(3, 7) == pytest.approx(2 * (36 + 6 * 7))
    assert PACE.trial_s(4) == pytest.approx([0.9, 1.3, 2.1])
    assert PACE.min_trials_s == pytest.approx(2 * 4.3)


def test_plan_runs_fits_into_the_time_less_the_reserve() -> None:
    # 140 s less a tenth are 126 s: 36 + 6 n is 126 at 15 steps.
    assert plan_runs(PACE.run, max_steps=100, seeds=3, left_s=140.1) == RunPlan(steps=15, eval_rows=10)
    assert plan_runs(PACE.run, max_steps=100, seeds=3, left_s=139.9) == RunPlan(steps=14, eval_rows=10)
    # The recipe's own steps at most.
    assert plan_runs(PACE.run, max_steps=12, seeds=3, left_s=140.1) == RunPlan(steps=12, eval_rows=10)
    # Four pairs take 46 + 8 n.
    assert plan_runs(PACE.run, max_steps=100, seeds=4, left_s=140.1) == RunPlan(steps=10, eval_rows=10)


def test_no_plan_without_time_for_a_step() -> None:
    # 36 + 6 = 42 s of 46.7 s.
    assert plan_runs(PACE.run, max_steps=100, seeds=3, left_s=46.7) == RunPlan(steps=1, eval_rows=10)
    assert plan_runs(PACE.run, max_steps=100, seeds=3, left_s=46.6) is None
    assert plan_runs(PACE.run, max_steps=0, seeds=3, left_s=1000) is None


def test_eval_rows_take_at_most_a_third_of_the_time() -> None:
    many = RunCost(cache_s=0.0, head_s=0.0, fixed_s=1.0, row_s=0.1, eval_row_s=0.1, rows_per_step=8, eval_rows=900)

    def judged(left_s: float) -> int:
        runs = plan_runs(many, max_steps=10, seeds=3, left_s=left_s)
        assert runs is not None
        return runs.eval_rows

    # A third of 900 s is enough for 3000 predictions, 500 rows for each of six runs.
    assert judged(1000.1) == 500
    assert judged(100_000) == 900
    # Never fewer than 100: 6 (1 + .8 + 10) = 70.8 s.
    assert judged(90) == 100
    assert plan_runs(many, max_steps=10, seeds=3, left_s=78) is None


def test_full_size_is_too_expensive_below_half_of_the_steps() -> None:
    # 36 + 6 n of .6 * .9 * 200 = 108 s: 12 steps.
    assert not too_expensive(PACE.run, recipe_steps=24, seeds=3, left_s=200.1)
    assert too_expensive(PACE.run, recipe_steps=25, seeds=3, left_s=200.1)
    assert too_expensive(PACE.run, recipe_steps=1, seeds=3, left_s=10)


def test_the_shortest_runs() -> None:
    assert shortest_runs(PACE.run, recipe_steps=100) == RunPlan(steps=4, eval_rows=10)
    assert shortest_runs(PACE.run, recipe_steps=2) == RunPlan(steps=2, eval_rows=10)
    assert runs_seconds(PACE.run, RunPlan(steps=4, eval_rows=10), seeds=3) == pytest.approx(60 / 0.9)
    # Half of the rows: a run takes half a second less.
    assert runs_seconds(PACE.run, RunPlan(steps=4, eval_rows=5), seeds=3) == pytest.approx(57 / 0.9)


def test_trials_get_their_share_or_what_full_runs_leave() -> None:
    # Runs of 9 steps take 90 s, with their reserve 100 s.
    assert trials_seconds(PACE, recipe_steps=9, seeds=3, budget_s=510, used_s=10) == pytest.approx(500 - 100)
    # They would leave 20 of 120 s: less than the share.
    assert trials_seconds(PACE, recipe_steps=9, seeds=3, budget_s=130, used_s=10) == pytest.approx(0.4 * 120)
    # The shortest runs need 66.7 of 80 s: all else is for the trials.
    assert trials_seconds(PACE, recipe_steps=9, seeds=3, budget_s=90, used_s=10) == pytest.approx(80 - 60 / 0.9)


def test_too_small_a_budget_names_a_sufficient_one() -> None:
    # 66.67 s for the shortest runs and 8.6 s for two trials on each rung.
    assert trials_seconds(PACE, recipe_steps=100, seeds=3, budget_s=85.3, used_s=10) == pytest.approx(8.63, abs=0.01)
    with pytest.raises(
        InputError, match=r"--budget 1m25s: 6 runs of 4 steps and a few.*expected 1m34s or more.*method top"
    ):
        trials_seconds(PACE, recipe_steps=100, seeds=3, budget_s=85.2, used_s=10)
    with pytest.raises(InputError, match="6 runs of 1 step and"):
        trials_seconds(PACE, recipe_steps=1, seeds=3, budget_s=20, used_s=10)


@pytest.mark.parametrize("recipe_steps", [9, 100])
def test_sufficient_budget(recipe_steps: int) -> None:
    enough_s = sufficient_budget(PACE, recipe_steps=recipe_steps, seeds=3, used_s=10)
    trials_s = trials_seconds(PACE, recipe_steps=recipe_steps, seeds=3, budget_s=enough_s, used_s=10)
    runs = plan_runs(PACE.run, max_steps=recipe_steps, seeds=3, left_s=enough_s - 10 - trials_s + 1e-6)
    assert runs is not None and runs.steps == recipe_steps
    # Nine steps: 100 s in .6 of the time.
    assert recipe_steps != 9 or enough_s == pytest.approx(10 + 100 / 0.6)


def test_with_much_time_trials_get_longer_up_to_a_run() -> None:
    counts = partial(Sweep.counts, space=SPACE)
    few, shortest = plan_trials(PACE, counts, requested=None, max_steps=1000, available_s=30.0)
    assert shortest == MIN_TRIAL_STEPS and sum(s * n for s, n in zip(PACE.trial_s(4), counts(few), strict=True)) <= 30.0
    many, longer = plan_trials(PACE, halving_counts, requested=None, max_steps=1000, available_s=3000.0)
    assert longer > MIN_TRIAL_STEPS and many > few
    assert plan_trials(PACE, halving_counts, requested=None, max_steps=20, available_s=3000.0)[1] == MIN_TRIAL_STEPS


def test_requested_number_of_trials_stays() -> None:
    assert plan_trials(PACE, lambda n: (n, 0, 0), requested=12, max_steps=1000, available_s=0.0) == (
        12,
        MIN_TRIAL_STEPS,
    )
