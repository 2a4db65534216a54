"""Final runs, on a clock that only they move."""

from typing import Any

import pytest

from hf_finetune.search.final_runs import FinalRun
from hf_finetune.search.paired_comparison import PairedRuns
from hf_finetune.search.planning import RunCost, RunPlan

# A run of n steps takes 4 + n seconds: three pairs 6 (4 + n), four pairs 8 (4 + n).
COST = RunCost(cache_s=0.0, head_s=0.0, fixed_s=3.0, row_s=0.5, eval_row_s=0.1, rows_per_step=2, eval_rows=10)


class Clock:
    """A budget, and runs that take what `slower` says of what was measured, by their number."""

    def __init__(self, budget_s: float, slower: dict[int, float] | float = 1.0, once_s: float = 0.0) -> None:
        self.left_s, self.slower, self.once_s = budget_s, slower, once_s
        self.made: list[tuple[str, int, int]] = []
        self.state: dict[str, Any] = {"plan": {}, "without": [], "with": []}
        self.kept: list[tuple[int, int]] = []

    def train(self, side: str, seed: int, plan: RunPlan) -> FinalRun:
        steps = plan.steps
        slower = self.slower if isinstance(self.slower, float) else self.slower.get(len(self.made), 1.0)
        kept_s = 0.0 if self.made else self.once_s
        self.made.append((side, seed, steps))
        seconds = kept_s + slower * (3.9 + steps + 0.1 * plan.eval_rows / 10)
        self.left_s -= seconds
        return FinalRun([], 0.5, 0.7, seconds=seconds, head_s=0.0, cache_s=kept_s, step_s=1.0, predict_s=0.1)

    def decided(self, *, recipe_steps: int, seeds: int | None = None) -> list[tuple[str, int, int]]:
        deciding = PairedRuns(
            self.state, COST, recipe_steps=recipe_steps, seeds=seeds, first_seed=5, left_s=lambda: self.left_s
        )
        if "steps" not in self.state["plan"]:
            deciding.begin()
        deciding.run(self.train, lambda: self.kept.append((len(self.state["without"]), len(self.state["with"]))))
        return self.made


def pairs(count: int, steps: int) -> list[tuple[str, int, int]]:
    return [(side, 5 + pair, steps) for pair in range(count) for side in ("without", "with")]


def test_steps_first_then_seeds() -> None:
    # 6 (4 + n) in 90 of 100 s: 11 steps. They leave 10 s, and a pair takes 30.
    clock = Clock(100.0)
    assert clock.decided(recipe_steps=30) == pairs(3, 11) and clock.left_s == pytest.approx(10.0)
    assert clock.state["plan"] == {"steps": 11, "eval_rows": 10}
    # All 6 steps in 60 s; two pairs of 20 s fit beside a tenth of one into the other 42 s.
    clock = Clock(102.0)
    assert clock.decided(recipe_steps=6) == pairs(5, 6) and clock.left_s == pytest.approx(2.0)


def test_requested_seeds_are_neither_more_nor_fewer() -> None:
    assert Clock(1000.0).decided(recipe_steps=6, seeds=4) == pairs(4, 6)
    # 8 (4 + n) in 90 s: 7 steps.
    assert Clock(100.0).decided(recipe_steps=30, seeds=4) == pairs(4, 7)
    assert Clock(10_000.0).decided(recipe_steps=6) == pairs(10, 6)


def test_faster_runs_leave_time_for_more_pairs() -> None:
    # Half as long: the three pairs take 45 s, and 15 s are in the other 55 s three times, with a tenth of one.
    clock = Clock(100.0, slower=0.5)
    assert clock.decided(recipe_steps=30) == pairs(6, 11) and clock.left_s == pytest.approx(10.0)


def test_slower_runs_restart_with_fewer_steps() -> None:
    # 180 of 200 s are enough for 26 steps; the first run takes 60 s, and five more do not fit into 140 s: at twice the
    # cost 12 (4 + n) fits into 126 s with 6 steps.
    clock = Clock(200.0, slower=2.0)
    assert clock.decided(recipe_steps=30) == [("without", 5, 26), *pairs(3, 6)]
    assert clock.left_s == pytest.approx(200 - 60 - 6 * 20) and clock.state["plan"]["steps"] == 6
    assert clock.kept == [(0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (3, 2), (3, 3)]


def test_a_slower_policy_restarts_with_fewer_steps() -> None:
    # 30 steps: 34 s and 136 s; 230 s are left, and four more of 136 s do not fit: 24 (4 + n) fits into 207 s with 4
    # steps.
    clock = Clock(400.0, slower={1: 4.0})
    assert clock.decided(recipe_steps=30, seeds=3) == [*pairs(1, 30), *pairs(3, 4)]


def test_pairs_stop_in_time_if_no_shorter_run_fits(caplog: pytest.LogCaptureFixture) -> None:
    # 26 steps: 30 s and 90 s of 200 s; 18 (4 + n) is more than 72 s even with one step. Another pair would take 120 s.
    clock = Clock(200.0, slower={1: 3.0})
    assert clock.decided(recipe_steps=30) == pairs(1, 26) and clock.left_s == pytest.approx(80.0)
    assert "no time for more than 1 of 3 pairs" in caplog.text


def test_steps_are_fixed_after_the_first_pair() -> None:
    # The third run takes 30 s in place of 15 s: 85 s are left for the fourth, then 25 s, which the last pair does not
    # fit in.
    clock = Clock(100.0, slower={2: 2.0})
    assert clock.decided(recipe_steps=30) == pairs(2, 11) and clock.left_s == pytest.approx(25.0)
    # With a tenth more the third pair, of 31.5 s as the second, ends in time.
    clock = Clock(100.0, slower={2: 1.1})
    assert clock.decided(recipe_steps=30) == pairs(3, 11) and clock.left_s == pytest.approx(8.5)


def test_cached_work_is_not_expected_again() -> None:
    # Ten seconds for what is kept: 36 + 10 of 60 s; a further pair of 12 s fits into 14 s.
    clock = Clock(60.0, once_s=10.0)
    assert clock.decided(recipe_steps=2) == pairs(4, 2)


def test_no_time_for_a_step_warns(caplog: pytest.LogCaptureFixture) -> None:
    # Six runs of a step take 30 s.
    clock = Clock(25.0)
    assert clock.decided(recipe_steps=30) == pairs(2, 1) and clock.left_s == pytest.approx(5.0)
    assert "not even 6 runs of one step may end within the 25s left" in caplog.text


def test_resume() -> None:
    whole, stopped = Clock(102.0), Clock(102.0)
    expected = whole.decided(recipe_steps=6)

    def dies(side: str, seed: int, plan: RunPlan) -> FinalRun:
        if len(stopped.made) == 3:
            raise KeyboardInterrupt
        return train(side, seed, plan)

    train, stopped.train = stopped.train, dies  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        stopped.decided(recipe_steps=6)
    stopped.train = train  # type: ignore[method-assign]
    assert stopped.decided(recipe_steps=6) == expected and stopped.state == whole.state
