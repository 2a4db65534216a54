"""Steps have every row once, for any number of processes and accumulation steps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_finetune.data.batching import Progress, StepBatches, number_repeats
from hf_finetune.data.sampling import ClassDraw
from hf_finetune.data.token_budget import bucket_lengths, step_starts
from hf_finetune.errors import InputError


@settings(max_examples=60, deadline=None)
@given(st.integers(40, 700), st.integers(1, 40), st.integers(1, 3), st.integers(1, 3), st.booleans(), st.integers(0, 3))
def test_every_row_once(
    rows: int, rows_per_step: int, accumulation: int, processes: int, by_length: bool, epoch: int
) -> None:
    lengths = np.random.default_rng(0).integers(1, 99, rows) if by_length else None
    rows_per_step = max(rows_per_step, 2 * accumulation * processes)
    parts = []
    for process in range(processes):
        sampler = StepBatches(
            rows,
            rows_per_step=rows_per_step,
            accumulation=accumulation,
            lengths=lengths,
            process=process,
            processes=processes,
        )
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler) == -(-rows // rows_per_step) * accumulation
        assert all(batches)
        parts.append(batches)
    assert sorted(i for part in parts for batch in part for i in batch) == list(range(rows))
    # Step by step the processes hold what a single one would.
    alone = StepBatches(rows, rows_per_step=rows_per_step, lengths=lengths)
    alone.set_epoch(epoch)
    for number, step in enumerate(alone):
        shares = [i for part in parts for b in part[number * accumulation : (number + 1) * accumulation] for i in b]
        assert sorted(shares) == sorted(step)
        assert len(step) <= rows_per_step


def test_epochs_differ_and_repeat() -> None:
    sampler = StepBatches(100, rows_per_step=10)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    sampler.set_epoch(0)
    assert first != second and list(sampler) == first
    assert list(StepBatches(100, rows_per_step=10, seed=1)) != first


def test_how_much_of_the_training_is_over_when_a_row_comes() -> None:
    """Equal on every process; 4 steps per epoch, 10 in total."""
    alone, shared = StepBatches(20, rows_per_step=5), StepBatches(20, rows_per_step=5, process=1, processes=2)
    over = Progress(alone, steps=10)
    for epoch in (1, 0):
        alone.set_epoch(epoch)
        for number, rows in enumerate(alone.step_rows()):
            assert over(epoch, rows).tolist() == [(4 * epoch + number) / 10] * 5
        assert np.array_equal(Progress(shared, steps=10)(epoch, np.arange(20)), over(epoch, np.arange(20)))


def test_how_much_is_over_when_a_row_comes_again() -> None:
    """Repetitions have numbers of their own. Without them the first one counts; for an absent row, the epoch's
    start."""
    draw = ClassDraw(np.array([0, 1, 1, 1, 1, 1, 1, 1]), "balanced")
    drawing, alike = (StepBatches(8, rows_per_step=2, draw=draw, several_views=views) for views in (True, False))
    steps = drawing.step_rows()
    assert sum(int((rows % 8 == 0).sum()) for rows in steps) == 4
    over = Progress(drawing, steps=8)
    assert [over(0, rows).tolist() for rows in steps] == [[number / 8] * 2 for number in range(4)]
    left_out = np.setdiff1d(np.arange(8), np.concatenate(steps) % 8)
    assert len(left_out) == 3 and over(0, left_out).tolist() == [0.0] * 3 and over(1, np.array([99])).tolist() == [0.5]
    first = min(number for number, rows in enumerate(alike.step_rows()) if 0 in rows)
    assert Progress(alike, steps=8)(0, np.array([0])).tolist() == [first / 8]


def test_a_row_that_comes_again_is_another_number() -> None:
    steps = [np.array([2, 0, 2]), np.array([1, 2]), np.array([0])]
    assert [step.tolist() for step in number_repeats(steps, 3)] == [[2, 0, 5], [1, 8], [3]]
    labels_N = np.array([0, 1, 1, 1, 1, 1, 1, 1])
    # The lone row of its class comes four times, on whichever process.
    per_process = [
        list(
            StepBatches(
                8,
                rows_per_step=4,
                draw=ClassDraw(labels_N, "balanced"),
                several_views=True,
                process=process,
                processes=2,
            )
        )
        for process in range(2)
    ]
    drawn = [index for batches in per_process for batch in batches for index in batch]
    assert sorted(index for index in drawn if index % 8 == 0) == [0, 8, 16, 24]
    assert sorted(index for index in drawn if index % 8) == sorted({index % 8 for index in drawn} - {0})


def test_sorting_saves_padding() -> None:
    """On lengths like those of short texts, sorted steps have less than 1.1 times the real tokens, shuffled ones
    1.5."""
    lengths = np.random.default_rng(0).geometric(0.05, 10_000) + 2

    def padded(sampler: StepBatches) -> float:
        return sum(len(b) * lengths[b].max() for b in sampler) / lengths.sum()

    assert padded(StepBatches(10_000, rows_per_step=32, lengths=lengths)) < 1.1
    assert padded(StepBatches(10_000, rows_per_step=32)) > 1.5


def test_most_steps_are_of_one_length() -> None:
    """Steps with rows of one length need no padding and no mask."""
    lengths = np.random.default_rng(0).geometric(0.05, 10_000) + 2
    batches = list(StepBatches(10_000, rows_per_step=32, lengths=lengths))
    assert np.mean([np.ptp(lengths[b]) == 0 for b in batches]) > 0.6
    assert lengths.sum() / sum(len(b) * lengths[b].max() for b in batches) > 0.97


def test_rows_of_rare_lengths_meet_others_in_every_epoch() -> None:
    """Even if all rows have different lengths."""
    sampler = StepBatches(1000, rows_per_step=10, lengths=np.arange(1000))
    companions = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        companions.append({i: frozenset(b) - {i} for b in sampler for i in b})
    assert np.mean([len(companions[0][i] & companions[1][i]) / len(companions[0][i]) for i in range(1000)]) < 0.7


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 700),
    st.integers(100, 900),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from(["geometric", "uniform", "one"]),
    st.integers(0, 3),
)
def test_token_budget(rows: int, budget: int, accumulation: int, processes: int, kind: str, epoch: int) -> None:
    """Every row occurs once, within the budget; every epoch and process has the same number of steps."""
    rng = np.random.default_rng(rows)
    lengths = {
        "geometric": np.minimum(rng.geometric(0.05, rows) + 2, 128),
        "uniform": rng.integers(3, 128, rows),
        "one": np.full(rows, 17),
    }[kind]
    given_ = {"rows_per_step": 1, "lengths": lengths, "token_budget": budget}
    alone = StepBatches(rows, **given_)
    first = sorted((len(b), int(lengths[b].max())) for b in alone)
    alone.set_epoch(epoch)
    steps = list(alone)
    assert sorted(i for step in steps for i in step) == list(range(rows))
    assert len(steps) == len(alone) == len(first)
    assert [n for n, _ in sorted((len(b), 0) for b in steps)] == [n for n, _ in first]
    assert all(len(step) * lengths[step].max() <= budget or len(step) == 1 for step in steps)
    try:
        samplers = [
            StepBatches(rows, **given_, accumulation=accumulation, processes=processes, process=p)
            for p in range(processes)
        ]
    except InputError:
        assert min(map(len, steps)) < accumulation * processes
        return
    parts = []
    for sampler in samplers:
        sampler.set_epoch(epoch)
        parts.append(list(sampler))
        assert len(parts[-1]) == len(sampler) == len(steps) * accumulation and all(parts[-1])
    for number, step in enumerate(steps):
        shares = [i for part in parts for b in part[number * accumulation : (number + 1) * accumulation] for i in b]
        assert sorted(shares) == sorted(step)


def test_token_budget_mixes_rows_of_like_length() -> None:
    lengths = np.random.default_rng(0).geometric(0.05, 5000) + 2
    sampler = StepBatches(5000, rows_per_step=1, lengths=lengths, token_budget=640)
    first = {frozenset(b) for b in sampler}
    sampler.set_epoch(1)
    second = {frozenset(b) for b in sampler}
    assert len(first & second) < 0.02 * len(first)
    sizes = [len(b) for b in sampler]
    assert max(sizes) > 4 * min(sizes), "short texts come in larger steps"
    real = lengths.sum() / sum(len(b) * lengths[b].max() for b in sampler)
    assert real > 0.95


def test_a_row_longer_than_the_budget_is_a_step_by_itself() -> None:
    lengths = np.array([5, 100, 5, 5, 90])
    steps = list(StepBatches(5, rows_per_step=1, lengths=lengths, token_budget=20))
    assert sorted(map(sorted, steps)) == [[0, 2, 3], [1], [4]]


def test_buckets_and_cuts_by_hand() -> None:
    assert bucket_lengths(np.array([50, 97, 100, 96, 3, 97])).tolist() == [50, 100, 100, 96, 3, 100]
    assert step_starts(np.array([10, 5, 5, 2, 2, 2]), 10).tolist() == [0, 1, 3]
    # Not 8 rows and a remainder of 2.
    assert step_starts(np.ones(10, dtype=int), 8).tolist() == [0, 5]


def test_too_small_a_budget_names_one_that_is_enough() -> None:
    lengths = np.random.default_rng(0).integers(3, 128, 300)
    given_ = {"rows_per_step": 1, "lengths": lengths, "processes": 2, "accumulation": 2}
    with pytest.raises(InputError, match=r"batching.token_budget: 200 tokens make a step of 1 row") as refused:
        StepBatches(300, token_budget=200, **given_)
    enough = int(str(refused.value).split("expected ")[1].split()[0])
    assert min(len(b) for b in StepBatches(300, token_budget=enough, **given_)) >= 1
    with pytest.raises(InputError):
        StepBatches(300, token_budget=int(enough / 1.5), **given_)


def test_order_of_steps_is_shuffled() -> None:
    lengths = np.arange(1000)
    means = [np.mean(b) for b in StepBatches(1000, rows_per_step=10, lengths=lengths)]
    assert abs(np.corrcoef(means, np.arange(100))[0, 1]) < 0.3


def test_too_few_rows_for_the_processes() -> None:
    with pytest.raises(InputError, match="3 rows cannot be shared by 2 process"):
        StepBatches(3, rows_per_step=8, accumulation=2, processes=2)
