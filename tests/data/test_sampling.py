"""Class-balanced epochs: shares computed by hand, equal rows for any number of processes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_finetune.data.batching import StepBatches
from hf_finetune.data.sampling import ClassDraw, class_quotas, classes_of, drawn_rows, draws_per_row

LABELS = np.repeat([0, 1, 3], [64, 16, 4])


def test_quotas_by_hand() -> None:
    """64, 16 and 4 rows: thirds of 84, or 8 : 4 : 2; the class without rows gets none."""
    counts = np.array([64, 16, 0, 4])
    assert class_quotas(counts, "none").tolist() == counts.tolist()
    assert class_quotas(counts, "balanced").tolist() == [28, 28, 0, 28]
    assert class_quotas(counts, "square_root").tolist() == [48, 24, 0, 12]
    assert class_quotas(np.array([3, 4]), "balanced").tolist() == [4, 3], "a remainder goes to one of them"


def test_rows_of_tags_count_as_their_rarest_by_hand() -> None:
    """Tags of 4, 2 and 1 rows; a row without tags, and one without a label."""
    hot = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 0], [-1, -1, -1]], dtype=np.int8)
    assert classes_of(hot).tolist() == [0, 0, 1, 2, 3, -1]
    # Classes of 2, 1, 1 and 1 rows: 1.25 of each, rounded to 2, 1, 1 and 1.
    assert draws_per_row(hot[:5], "balanced", 3).tolist() == [1, 1, 1, 1]
    many = np.repeat(hot[[0, 3]], [9, 1], axis=0)
    assert draws_per_row(many, "balanced", 3).tolist() == [5 / 9, 5, 0, 0]
    assert drawn_rows(many, "balanced", 3).tolist() == pytest.approx([10, 5, 5])
    assert drawn_rows(LABELS, "balanced", 4).tolist() == [28, 28, 0, 28]


def test_draw_repeats_rows_evenly_and_gives_all_their_turn() -> None:
    draw = ClassDraw(LABELS, "balanced")
    seen = np.zeros(84, dtype=int)
    for epoch in range(12):
        times = np.bincount(draw(np.random.default_rng(epoch)), minlength=84)
        assert np.bincount(LABELS, weights=times).tolist() == [28, 28, 0, 28]
        assert set(times[:64]) == {0, 1} and set(times[64:80]) == {1, 2} and set(times[80:]) == {7}
        seen += times
    assert seen.min() > 0


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["balanced", "square_root"]),
    st.sampled_from(["plain", "by_length", "token_budget"]),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(0, 40),
)
def test_steps_of_drawn_rows(sampling: str, kind: str, processes: int, accumulation: int, epoch: int) -> None:
    """Only drawn rows, in equal steps for any number of processes, as many in every epoch."""
    lengths = np.random.default_rng(0).integers(3, 60, len(LABELS))
    draw = ClassDraw(LABELS, sampling)
    fields = {"rows_per_step": 12, "draw": draw, "lengths": None if kind == "plain" else lengths}
    if kind == "token_budget":
        fields["token_budget"] = 800
    alone = StepBatches(len(LABELS), **fields)
    first = len(alone.step_rows())
    alone.set_epoch(epoch)
    steps = alone.step_rows()
    assert len(steps) == first == alone.steps
    expected = draw(np.random.default_rng((0, epoch)))
    assert sorted(np.concatenate(steps)) == sorted(expected)
    if kind == "token_budget" and epoch < 16:
        assert all(len(step) * lengths[step].max() <= 800 for step in steps)
    parts = []
    for process in range(processes):
        sampler = StepBatches(len(LABELS), **fields, processes=processes, process=process, accumulation=accumulation)
        sampler.set_epoch(epoch)
        parts.append(list(sampler))
        assert len(parts[-1]) == len(sampler) == first * accumulation and all(parts[-1])
    for number, step in enumerate(steps):
        shares = [i for part in parts for b in part[number * accumulation : (number + 1) * accumulation] for i in b]
        assert sorted(shares) == sorted(step)


def test_epochs_and_seeds_draw_other_rows() -> None:
    def rows(seed: int, epoch: int) -> list[int]:
        sampler = StepBatches(84, rows_per_step=12, draw=ClassDraw(LABELS, "balanced"), seed=seed)
        sampler.set_epoch(epoch)
        return sorted(i for batch in sampler for i in batch)

    assert rows(0, 0) == rows(0, 0) != rows(0, 1) != rows(1, 0)


@pytest.mark.parametrize("sampling", ["balanced", "square_root"])
def test_classes_of_one_size_come_as_they_are(sampling: str) -> None:
    labels = np.arange(40) % 4
    assert sorted(ClassDraw(labels, sampling)(np.random.default_rng(0))) == list(range(40))
