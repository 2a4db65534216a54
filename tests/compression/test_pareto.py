"""Which candidates are worth having, and which one is chosen."""

from __future__ import annotations

import pytest

from hf_finetune.compression.pareto import Limits, Point, alternatives, choose, front

SOURCE = Point("source", 0.0, 100.0, 8.0, 90)
INT8 = Point("int8", 0.2, 130.0, 6.0, 25)
PRUNED = Point("pruned", 0.8, 300.0, 3.0, 12)
WORSE = Point("worse", 0.9, 290.0, 3.5, 12)
ALL = (SOURCE, INT8, PRUNED, WORSE)


def test_the_front_has_no_candidate_that_another_beats() -> None:
    assert front(ALL) == ("source", "int8", "pruned")
    assert front([SOURCE, SOURCE]) == ("source", "source"), "equal ones do not beat each other"


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (Limits(0.5), "int8"),
        (Limits(1.0), "pruned"),
        (Limits(0.5, 7.0), "int8"),
        (Limits(0.5, 4.0), None),
        (Limits(1.0, 3.2), "pruned"),
        (Limits(0.5, max_bytes=25), "int8"),
        (Limits(0.5, max_bytes=12), None),
    ],
)
def test_the_fastest_within_the_limits_is_chosen(limits: Limits, expected: str | None) -> None:
    assert choose(ALL, limits) == expected


def test_the_closest_alternatives_are_named() -> None:
    assert alternatives(ALL[1:], Limits(0.5, 4.0)) == ["int8", "pruned"]
    assert alternatives([WORSE, PRUNED], Limits(0.1)) == ["pruned", "worse"]
    assert alternatives(ALL[1:], Limits(0.7, max_bytes=10)) == ["pruned", "worse"]


def test_a_loss_that_is_no_number_is_not_chosen() -> None:
    broken = Point("nan", float("nan"), 1e9, 0.1, 1)
    assert choose([broken], Limits(0.5)) is None
    assert alternatives([WORSE, broken, PRUNED], Limits(0.1), most=3) == ["pruned", "worse", "nan"]
