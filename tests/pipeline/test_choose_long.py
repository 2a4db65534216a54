"""When a way to read long texts takes the place of a simpler one."""

from typing import Any

import pytest

from hf_finetune.pipeline.choose_long import _is_better


@pytest.mark.parametrize(
    ("verdict", "accuracy", "log_loss", "expected"),
    [
        ("better", 0.02, None, True),
        ("undecided", 0.02, None, False),
        ("undecided", 0.0, 0.01, True),
        ("undecided", 0.02, -0.01, False),
        ("no worse", -0.001, 0.01, False),
    ],
)
def test_the_log_loss_may_decide(verdict: str, accuracy: float, log_loss: float | None, expected: bool) -> None:
    """Where the accuracy is not lower. `log_loss` is the lowest gain of its interval."""
    measured: dict[str, Any] = {"difference": {"verdict": verdict, "value": accuracy}}
    if log_loss is not None:
        measured["log_loss_gain"] = {"low": log_loss}
    assert _is_better(measured) is expected
