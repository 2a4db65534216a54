"""Which candidates are worth having, and which one is chosen."""

from __future__ import annotations

import pytest

from hf_finetune.compression.pareto import Point, alternatives, choose, front

SOURCE = Point("source", 0.0, 100.0, 8.0, 90)
INT8 = Point("int8", 0.2, 130.0, 6.0, 25)
PRUNED = Point("pruned", 0.8, 300.0, 3.0, 12)
WORSE = Point("worse", 0.9, 290.0, 3.5, 12)
ALL = (SOURCE, INT8, PRUNED, WORSE)


def test_the_front_has_no_candidate_that_another_beats() -> None:
    assert front(ALL) == ("source", "int8", "pruned")
    assert front([SOURCE, SOURCE]) == ("source", "source"), "equal ones do not beat each other"


@pytest.mark.parametrize(
    ("max_loss", "latency_ms", "expected"),
    [(0.5, None, "int8"), (1.0, None, "pruned"), (0.5, 7.0, "int8"), (0.5, 4.0, None), (1.0, 3.2, "pruned")],
)
def test_the_fastest_within_the_limits_is_chosen(
    max_loss: float, latency_ms: float | None, expected: str | None
) -> None:
    assert choose(ALL, max_loss=max_loss, latency_ms=latency_ms) == expected


def test_the_closest_alternatives_are_named() -> None:
    assert alternatives(ALL[1:], max_loss=0.5, latency_ms=4.0) == ["int8", "pruned"]
    assert alternatives([WORSE, PRUNED], max_loss=0.1, latency_ms=None) == ["pruned", "worse"]


def test_a_loss_that_is_no_number_is_not_chosen() -> None:
    assert choose([Point("nan", float("nan"), 1e9, 0.1, 1)], max_loss=0.5, latency_ms=None) is None
