"""Numbers that change over the training."""

from dataclasses import dataclass

import pytest

from hf_finetune.distillation.weight_schedules import Number, Ramp, at_progress, ends_of


@dataclass(frozen=True)
class Operation:
    """An operation with two scheduled numbers."""

    weight: Number = 1.0
    temperature: Number = 2.0


def test_ramps_by_hand() -> None:
    """After a quarter: a quarter of the difference if linear, (1 - cos 45 degrees) / 2 of it if cosine."""
    assert [Ramp(1.0, 5.0).at(p) for p in (0.0, 0.25, 1.0)] == [1.0, 2.0, 5.0]
    assert Ramp(0.0, 1.0, "cosine").at(0.25) == pytest.approx((1 - 0.5**0.5) / 2)
    assert [Ramp(3.0, 0.0, "cosine").at(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([3.0, 1.5, 0.0])


def test_at_progress() -> None:
    assert at_progress(Operation(Ramp(0.0, 1.0)), 0.5) == Operation(0.5)
    same = Operation()
    assert at_progress(same, 0.5) is same
    assert ends_of(Ramp(0.0, 2.0)) == (0.0, 2.0) and ends_of(0.5) == (0.5,)
