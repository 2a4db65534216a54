"""Times as the user writes them, and the trials that fit into one."""

import pytest

from hf_finetune.errors import InputError
from hf_finetune.search.budget import Budget
from hf_finetune.search.planning import affordable_trials
from hf_finetune.utils.durations import format_duration, parse_duration


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1h30m", 5400), ("45", 45), ("1.5m", 90)])
def test_parse_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0m", "ten", "5 minutes", "-3m", "3d"])
def test_invalid_durations_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"--budget .*: expected a time such as 90s"):
        parse_duration(text)


@pytest.mark.parametrize("seconds", [1, 59, 60, 3599, 5400, 90061])
def test_format_duration_round_trip(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


def test_affordable_trials() -> None:
    def halves(trials: int) -> tuple[int, int]:
        return trials - trials // 3, trials // 3

    # 6 trials are 4 of 1 s and 2 of 5 s, 14 s in all; 7 would be 15 s.
    assert affordable_trials(halves, [1.0, 5.0], 14.5) == 6
    assert affordable_trials(halves, [1.0, 5.0], 1.5) == 0


def test_a_budget_leaves_out_no_more_than_ten_seconds() -> None:
    budget = Budget(60.0, used_s=30.0)
    budget.exclude(6.0)
    assert budget.used_s == pytest.approx(24, abs=0.5) and budget.excludable_s == 4
    budget.exclude(6.0)
    assert budget.used_s == pytest.approx(20, abs=0.5) and budget.excludable_s == 0
