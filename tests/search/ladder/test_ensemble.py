"""Which rungs form an ensemble, and why there is none."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hf_finetune.search.budget import Budget
from hf_finetune.search.ladder.ensemble import PIPELINE, find_ensemble, select
from hf_finetune.search.ladder.standing import Standing
from hf_finetune.search.ladder.state import LadderState, RungRecord
from hf_finetune.tasks.single_label import SingleLabel

SPLITS = SimpleNamespace(columns={"text": "review", "label": "stars"})
PAIRS = SimpleNamespace(columns={"text": "a", "text_pair": "b", "label": "same"})


def test_models_are_added_while_the_mean_gains() -> None:
    """The loss is the distance to 1: 0.9 alone is best, 1.2 beside it gives 1.05, 0.6 a worse mean."""
    scores = {"a": np.array([0.6]), "b": np.array([0.9]), "c": np.array([1.2])}
    assert select(scores, lambda mean_N: abs(float(mean_N[0]) - 1)) == ["b", "c"]
    assert select({"a": np.array([1.0]), "b": np.array([1.0])}, lambda mean_N: 0.0) == ["a"], "no gain, no more models"


def standing_of(*rungs: tuple[str, np.ndarray], folds: int | None = None, labels: np.ndarray) -> Standing:
    """Rungs of which each is better than the one before."""
    records = [
        RungRecord(name, "", f"{n}-{name}", comparison={"verdict": "better"}) for n, (name, _) in enumerate(rungs)
    ]
    state = LadderState(Path("rungs"), records)
    state.folds = folds
    task = SingleLabel(("bad", "good"))
    return Standing("a", Path(), Budget(9.0), state, task, labels, 100, scores=dict(rungs))


def scores_of(labels_N: np.ndarray, wrong: slice, doubt: float) -> np.ndarray:
    """Probabilities that are right but for some rows, in which they are of little confidence."""
    right_N = np.full(len(labels_N), 0.9)
    right_N[wrong] = doubt
    return np.where(np.arange(2) == labels_N[:, None], right_N[:, None], 1 - right_N[:, None])


def test_the_mean_of_models_with_other_mistakes_is_better() -> None:
    labels_N = np.arange(400) % 2
    head, full = scores_of(labels_N, slice(0, 60), 0.45), scores_of(labels_N, slice(60, 120), 0.45)
    found = find_ensemble(standing_of(("head", head), ("full", full), labels=labels_N), SPLITS)
    assert found.teachers == ("rungs/0-head", "rungs/1-full") and "head + full is better than full" in found.reason
    with_linear = standing_of(("linear", head), ("full", full), labels=labels_N)
    assert find_ensemble(with_linear, SPLITS).teachers == (f"rungs/0-linear/{PIPELINE}", "rungs/1-full")
    assert find_ensemble(with_linear, PAIRS).reason == "left: no mean with another model has a lower loss than full"


@pytest.mark.parametrize(
    ("rungs", "folds", "why"),
    [
        (("head", "full"), None, "is not better than full by the paired test"),
        (("head", "full"), 5, "were trained on all rows"),
        (("full", "trees"), None, "the best model so far cannot be a teacher"),
    ],
)
def test_why_there_is_no_ensemble(rungs: tuple[str, ...], folds: int | None, why: str) -> None:
    labels_N = np.arange(40) % 2
    scores = [scores_of(labels_N, slice(n, n + 1), 0.45) for n in range(len(rungs))]
    found = find_ensemble(standing_of(*zip(rungs, scores, strict=True), folds=folds, labels=labels_N), SPLITS)
    assert not found.teachers and found.reason.startswith("left: ") and why in found.reason
