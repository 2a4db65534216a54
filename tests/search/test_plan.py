"""The plan of a search by hand: what was measured, what is to be done, what there is time for."""

import pytest

from hf_finetune.errors import InputError
from hf_finetune.search.plan import (
    DEARER,
    LEAST_STEPS,
    RETRAINING_SHARE,
    USED_SHARE,
    Pace,
    judged,
    run_steps,
    trial_plan,
)
from hf_finetune.search.retraining import Cost
from hf_finetune.search.searchers import Sweep, halved

# A run of n steps takes 2 + n + 1 seconds.
PACE = Pace(
    step_s=0.1,
    rest_s=0.5,
    run=Cost(kept_s=6.0, head_s=4.0, fixed_s=2.0, row_s=0.125, score_s=0.1, rows_per_step=8, scored=10),
)


def test_what_a_run_and_a_trial_take() -> None:
    assert PACE.run.of(7) == pytest.approx(10.0)
    assert PACE.rungs(4) == pytest.approx([0.9, 1.3, 2.1])


def test_runs_have_all_their_steps_where_there_is_time() -> None:
    assert run_steps(PACE, wanted=20, runs=6, budget_s=600, used_s=10) == 20


def test_else_as_many_as_fit_into_their_share() -> None:
    steps = run_steps(PACE, wanted=100, runs=6, budget_s=200, used_s=10)
    share = (200 * USED_SHARE - 10) * RETRAINING_SHARE
    # Three seeds: three heads are fitted; the validation rows go through the frozen layers once.
    taken = [(6 * PACE.run.of(n) + 3 * 4.0 + 6.0) * DEARER for n in (steps, steps + 1)]
    assert taken[0] <= share < taken[1]


def test_a_budget_for_no_step_says_which_would_do() -> None:
    with pytest.raises(InputError, match=r"--budget 30s: 6 runs of one step.*expected \S+ or more") as refused:
        run_steps(PACE, wanted=100, runs=6, budget_s=30, used_s=10)
    assert "--method top" in str(refused.value)


def test_with_much_time_trials_are_longer_and_no_longer_than_a_run() -> None:
    few, shortest = trial_plan(PACE, Sweep.counts, wanted=None, most_steps=1000, available=30.0)
    assert shortest == LEAST_STEPS and sum(s * n for s, n in zip(PACE.rungs(4), Sweep.counts(few), strict=True)) <= 30.0
    many, longer = trial_plan(PACE, halved, wanted=None, most_steps=1000, available=3000.0)
    assert longer > LEAST_STEPS and many > few
    assert trial_plan(PACE, halved, wanted=None, most_steps=20, available=3000.0)[1] == LEAST_STEPS


def test_a_number_of_trials_that_was_asked_for_stays() -> None:
    assert trial_plan(PACE, lambda n: (n, 0, 0), wanted=12, most_steps=1000, available=0.0) == (12, LEAST_STEPS)


def test_rows_to_judge_take_a_third_of_the_runs_time_at_most() -> None:
    many = Cost(kept_s=0.0, head_s=0.0, fixed_s=1.0, row_s=0.1, score_s=0.1, rows_per_step=8, scored=900)
    found = judged(many, runs=6, budget_s=1000, used_s=10)
    third = (1000 * USED_SHARE - 10) * RETRAINING_SHARE / 3
    assert 6 * found * 0.1 * DEARER <= third < 6 * (found + 1) * 0.1 * DEARER
    assert judged(many, runs=6, budget_s=100_000, used_s=10) == 900
    assert judged(many, runs=6, budget_s=10, used_s=10) == 100
    assert judged(PACE.run, runs=6, budget_s=10, used_s=10) == 10
