"""Which rows go into which optimiser step, on which process: exact, seeded, and independent of how many share the work."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import DataLoader, Sampler

from hf_finetune.errors import InputError

# Rows are sorted by length inside windows of this many steps: wide enough that a step is nearly of one length, narrow
# enough that every epoch mixes anew which rows meet.
STEPS_PER_WINDOW = 64


class StepBatches(Sampler[list[int]]):
    """Batch sampler of one process: its micro-batches of every optimiser step of an epoch.

    An epoch is a seeded permutation of the rows, cut into `ceil(rows / rows_per_step)` steps whose sizes differ by one
    at most, so no row is lost or doubled and no step is a small remainder. With `lengths`, rows are sorted by length
    within windows of steps before they are cut, and the order of the steps is shuffled again. Each step is then dealt to
    `processes x accumulation` micro-batches. The steps depend on (seed, epoch) alone.

    Args:
        rows: number of rows.
        rows_per_step: rows of an optimiser step, over all processes.
        accumulation: micro-batches a process runs per step.
        lengths: shape (rows,), tokens of each row; None: not sorted.
        process: index of this process.
        processes: number of processes.

    Raises:
        InputError: when a step has fewer rows than there are micro-batches to fill.
    """

    def __init__(
        self,
        rows: int,
        *,
        rows_per_step: int,
        accumulation: int = 1,
        lengths: np.ndarray | None = None,
        seed: int = 0,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self.rows, self.lengths, self.seed = rows, lengths, seed
        self.accumulation, self.process, self.processes = accumulation, process, processes
        self.steps = max(1, -(-rows // rows_per_step))
        self.epoch = 0
        if rows // self.steps < accumulation * processes:
            raise InputError(
                f"a step of {rows // self.steps} rows cannot be shared by {processes} process(es) x {accumulation} "
                "accumulation step(s): lower one of them"
            )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration follows."""
        self.epoch = epoch

    def step_rows(self) -> list[np.ndarray]:
        """Row indices of every optimiser step of this epoch, over all processes."""
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(self.rows)
        if self.lengths is None:
            return np.array_split(order, self.steps)
        windows = np.array_split(order, max(1, min(4, self.steps // 4), round(self.steps / STEPS_PER_WINDOW)))
        by_length = [w[np.argsort(self.lengths[w], kind="stable")] for w in windows]
        # Up one window and down the next: a step that straddles two windows is of one length all the same.
        in_order = np.concatenate([w if i % 2 == 0 else w[::-1] for i, w in enumerate(by_length)])
        steps = np.array_split(in_order, self.steps)
        return [steps[i] for i in rng.permutation(self.steps)]

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.step_rows():
            parts = np.array_split(step, self.processes * self.accumulation)
            for part in parts[self.process :: self.processes]:
                yield part.tolist()


class EpochLoader(DataLoader):
    """A DataLoader that hands the epoch on to its batch sampler, as the Trainer asks of the loaders it knows."""

    def set_epoch(self, epoch: int) -> None:
        """See `StepBatches.set_epoch`."""
        self.batch_sampler.set_epoch(epoch)
