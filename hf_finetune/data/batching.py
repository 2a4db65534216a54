"""Assign rows to optimizer steps and processes: exact, seeded, and the same for any number of processes."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Sampler

from hf_finetune.data.inputs import EpochRows
from hf_finetune.data.sampling import ClassDraw
from hf_finetune.data.token_budget import TokenBudget, bucket_lengths, smallest_step, step_starts, sufficient_budget
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import counted

# Rows are sorted by length within windows of this many steps: wide enough that most steps have rows of one length,
# narrow enough that rows of rare lengths meet others in every epoch. On two sets of short texts 98.3% and 99.1% of the
# tokens are no padding; 64 steps gave 96.2% and 98.3%.
STEPS_PER_WINDOW = 256
# With class-balanced sampling, the steps of a token budget are counted on this many epochs.
EPOCHS_COUNTED = 16


class StepBatches(Sampler[list[int]]):
    """Batch sampler of one process: its micro-batches of every optimizer step of an epoch.

    An epoch is a seeded permutation of the rows, divided into `ceil(rows / rows_per_step)` steps whose sizes differ by
    at most one: no row is dropped or repeated, and no step is a small remainder. With `lengths`, rows are sorted by
    length within windows of steps, and the order of the steps is shuffled. Each step is then divided into `processes x
    accumulation` micro-batches. The steps depend on (seed, epoch) alone.

    With `token_budget`, a step holds as many rows as stay within that many padded tokens: short texts come in large
    steps, long texts in small ones. The sizes follow from the lengths alone, so every epoch has the same number of
    steps and of padded tokens; each epoch shuffles the rows of a similar length, and the order of the steps. A row
    longer than the budget is a step by itself.

    With `draw`, the rows of an epoch are drawn by (seed, epoch): some are repeated, some are absent. With a token
    budget, every epoch then has the number of steps of the longest of the first `EPOCHS_COUNTED` epochs; later epochs
    may exceed the budget a little to keep to it.

    Args:
        rows: number of rows.
        rows_per_step: rows of an optimizer step, over all processes; ignored with `token_budget`.
        accumulation: micro-batches of a process per step.
        lengths: shape (rows,), tokens of each row; None: rows are not sorted.
        token_budget: padded tokens of an optimizer step, over all processes; needs `lengths`.
        draw: draws the rows of an epoch, as many as `rows`. None: every row once.
        several_views: give repetitions of a row numbers of their own, see `number_repeats`.
        process: index of this process.
        processes: number of processes.

    Raises:
        InputError: a step has fewer rows than micro-batches.
    """

    def __init__(
        self,
        rows: int,
        *,
        rows_per_step: int,
        accumulation: int = 1,
        lengths: np.ndarray | None = None,
        token_budget: int | None = None,
        draw: ClassDraw | None = None,
        several_views: bool = False,
        seed: int = 0,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self.rows, self.lengths, self.seed = rows, lengths, seed
        self.accumulation, self.process, self.processes = accumulation, process, processes
        self.epoch = 0
        self.on_epoch: Callable[[int], None] | None = None
        self._draw = draw
        self._several_views = several_views and draw is not None
        self._budget = None if token_budget is None else self._fit_budget(token_budget)
        if self._budget is not None:
            self.steps = len(self._budget.starts)
            return
        self.steps = max(1, -(-rows // rows_per_step))
        if rows // self.steps < accumulation * processes:
            raise InputError(
                f"a step of {counted(rows // self.steps, 'row')} cannot be shared by "
                f"{_parts(processes, accumulation)}: lower one of them"
            )

    def _fit_budget(self, tokens: int) -> TokenBudget:
        """Determine the number of steps: that of the longest of the first epochs."""
        assert self.lengths is not None, "a token budget needs the rows' lengths"
        lengths = bucket_lengths(self.lengths)
        epochs = [np.arange(self.rows)] if self._draw is None else map(self._rows_of, range(EPOCHS_COUNTED))
        ordered = [np.sort(lengths[rows])[::-1] for rows in epochs]
        starts = max((step_starts(longest_first, tokens) for longest_first in ordered), key=len)
        budget = TokenBudget(tokens, lengths, starts, is_fixed=self._draw is None)
        smallest = [smallest_step(budget.step_starts(each), self.rows) for each in ordered]
        parts, longest_first = self.accumulation * self.processes, ordered[int(np.argmin(smallest))]
        if min(smallest) < parts:
            least = sufficient_budget(longest_first, tokens, parts)
            raise InputError(
                f"batching.token_budget: {tokens} tokens make a step of {counted(min(smallest), 'row')} (the longest "
                f"has {longest_first[0]} tokens), which {_parts(self.processes, self.accumulation)} cannot share: "
                f"expected {least} or more, or fewer of either"
            )
        return budget

    def set_epoch(self, epoch: int) -> None:
        """Select the epoch of the next iteration, for the rows as well, see `EpochLoader`."""
        self.epoch = epoch
        if self.on_epoch is not None:
            self.on_epoch(epoch)

    def step_rows(self) -> list[np.ndarray]:
        """Return the row numbers of every optimizer step of this epoch, over all processes."""
        return self._steps_of(self.epoch)

    def _steps_of(self, epoch: int) -> list[np.ndarray]:
        steps = self._drawn_steps(epoch)
        return number_repeats(steps, self.rows) if self._several_views else steps

    def _drawn_steps(self, epoch: int) -> list[np.ndarray]:
        rng = np.random.default_rng((self.seed, epoch))
        order = self._rows_of(epoch, rng)
        if self._budget is not None:
            in_order = order[np.argsort(-self._budget.lengths[order], kind="stable")]
            steps = np.split(in_order, self._budget.step_starts(self._budget.lengths[in_order])[1:])
        elif self.lengths is None:
            return np.array_split(order, self.steps)
        else:
            windows = np.array_split(order, max(1, min(2, self.steps // 4), round(self.steps / STEPS_PER_WINDOW)))
            by_length = [w[np.argsort(self.lengths[w], kind="stable")] for w in windows]
            # Every other window is reversed: a step across two windows has rows of one length, too.
            in_order = np.concatenate([w if i % 2 == 0 else w[::-1] for i, w in enumerate(by_length)])
            steps = np.array_split(in_order, self.steps)
        return [steps[i] for i in rng.permutation(self.steps)]

    def _rows_of(self, epoch: int, rng: np.random.Generator | None = None) -> np.ndarray:
        """Return the rows of an epoch in random order."""
        rng = rng or np.random.default_rng((self.seed, epoch))
        return rng.permutation(self.rows) if self._draw is None else self._draw(rng)

    def first_steps(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the sorted distinct row numbers of an epoch, and the first step that has each; shapes (K,)."""
        steps = self._steps_of(epoch)
        numbers, first = np.unique(np.concatenate(steps), return_index=True)
        return numbers, np.repeat(np.arange(len(steps)), [len(step) for step in steps])[first]

    def total_steps(self, epochs: float, max_steps: int = -1) -> int:
        """Return the optimizer steps of a training, as the Trainer counts them; `max_steps` if it is above 0."""
        return max_steps if max_steps > 0 else max(1, math.ceil(self.steps * epochs))

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.step_rows():
            parts = np.array_split(step, self.processes * self.accumulation)
            for part in parts[self.process :: self.processes]:
                yield part.tolist()


def number_repeats(steps: list[np.ndarray], rows: int) -> list[np.ndarray]:
    """Number the repetitions of each row: the second is `row + rows`, the third `row + 2 * rows`, and so on.

    Args:
        steps: row indices of each step.
        rows: number of rows.
    """
    order = np.concatenate(steps)
    by_row = np.argsort(order, kind="stable")
    times = np.empty_like(order)
    times[by_row] = np.arange(len(order)) - np.searchsorted(order[by_row], order[by_row])
    return np.split(order + rows * times, np.cumsum([len(step) for step in steps])[:-1])


class Progress:
    """Share of the training that is over when a row is read; computed once per epoch.

    Args:
        batches: the steps of each epoch.
        steps: number of steps of the training.
    """

    def __init__(self, batches: StepBatches, steps: int) -> None:
        self.batches, self.steps = batches, steps
        self._epoch: tuple[int, np.ndarray, np.ndarray] | None = None

    def __call__(self, epoch: int, numbers: np.ndarray) -> np.ndarray:
        """Return the share of the training that is over when an epoch reads its rows, shape (B,).

        Args:
            numbers: row numbers from `StepBatches`, shape (B,). The first occurrence of a row counts; for a row that
                does not occur, the start of the epoch.
        """
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, *self.batches.first_steps(epoch)
        _, known, step = self._epoch
        at_B = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
        before_B = np.where(known[at_B] == numbers, step[at_B], 0)
        return (epoch * self.batches.steps + before_B) / self.steps


class EpochLoader(DataLoader):
    """A DataLoader whose batch sampler and rows follow the epoch that the Trainer sets.

    The batch sampler passes the epoch on to the rows: in the middle of an epoch, a resumed Trainer wraps it in another
    loader and reaches no other part of this one.
    """

    def __init__(self, dataset: EpochRows, batch_sampler: StepBatches, **options: Any) -> None:
        super().__init__(dataset, batch_sampler=batch_sampler, **options)
        batch_sampler.on_epoch = dataset.set_epoch

    def set_epoch(self, epoch: int) -> None:
        """Select the epoch of the next iteration."""
        assert isinstance(self.batch_sampler, StepBatches)
        self.batch_sampler.set_epoch(epoch)


def _parts(processes: int, accumulation: int) -> str:
    return f"{counted(processes, 'process', 'processes')} x {counted(accumulation, 'accumulation step')}"
