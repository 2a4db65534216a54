"""The task of a saved model, whatever its config.json says."""

from typing import Any

import pytest

from hf_finetune.errors import InputError
from hf_finetune.tasks.choose import saved_task

TAGS = {"problem_type": "multi_label_classification"}


def test_thresholds_are_those_of_the_tags() -> None:
    assert saved_task("m", ("a", "b"), TAGS).thresholds_C.tolist() == [0.5, 0.5]
    assert saved_task("m", ("a", "b"), TAGS | {"thresholds": {"b": 1, "a": 0.25}}).thresholds_C.tolist() == [0.25, 1.0]


@pytest.mark.parametrize("problem", ["x", 3, ["regression"], {"a": 1}])
def test_other_problem_types_are_refused(problem: Any) -> None:
    """A list was a traceback."""
    with pytest.raises(InputError, match=r"m: its config.json says problem_type .*, expected one of "):
        saved_task("m", ("a", "b"), {"problem_type": problem})


@pytest.mark.parametrize(
    "thresholds", [[], 3, {}, {"a": 0.5}, {"a": 2, "b": 0.5}, {"a": float("nan"), "b": 0.5}, {"a": "x", "b": 0.5}]
)
def test_damaged_thresholds_are_refused(thresholds: Any) -> None:
    with pytest.raises(InputError, match=r"m: its config.json has thresholds"):
        saved_task("m", ("a", "b"), TAGS | {"thresholds": thresholds})
