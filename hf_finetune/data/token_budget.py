"""Divide rows into optimizer steps of a limited number of padded tokens."""

import math
from dataclasses import dataclass

import numpy as np

# Lengths within this share of one another count as equal: the rows of a bucket are shuffled freely.
BUCKET_WIDTH = 0.04


@dataclass(frozen=True)
class TokenBudget:
    """Steps of at most `tokens` padded tokens; every epoch has the same number of steps."""

    tokens: int
    lengths: np.ndarray
    """Shape (rows,), see `bucket_lengths`."""
    starts: np.ndarray
    """First row of each step in the epoch with the most steps."""
    is_fixed: bool
    """Whether every epoch has the same lengths, and so the same steps."""

    def step_starts(self, longest_first: np.ndarray) -> np.ndarray:
        """Return the first row of each step of an epoch, whose lengths are in falling order."""
        if self.is_fixed:
            return self.starts
        budget = self.tokens
        starts = step_starts(longest_first, budget)
        while len(starts) > len(self.starts):
            budget = math.ceil(budget * 1.01)
            starts = step_starts(longest_first, budget)
        while len(starts) < len(self.starts):
            sizes = np.diff(starts, append=len(longest_first))
            largest = int(sizes.argmax())
            starts = np.insert(starts, largest + 1, starts[largest] + sizes[largest] // 2)
        return starts


def bucket_lengths(lengths: np.ndarray) -> np.ndarray:
    """Replace every length by the longest of its bucket. A bucket reaches `BUCKET_WIDTH` down from its longest row.

    Args:
        lengths: shape (rows,).

    Returns:
        Shape (rows,), int64, nowhere below `lengths`.
    """
    values = np.unique(lengths)[::-1]
    edges, edge = np.empty_like(values), np.inf
    for i, value in enumerate(values):
        if value <= edge * (1 - BUCKET_WIDTH) or i == 0:
            edge = value
        edges[i] = edge
    return edges[::-1][np.searchsorted(values[::-1], lengths)].astype(np.int64)


def step_starts(longest_first: np.ndarray, budget: int) -> np.ndarray:
    """Return the first row of each step, so that rows x longest row stays within the budget in every step.

    There are as few steps as a greedy division from the longest row on needs, of about equal size in tokens, so that
    none is a small remainder.

    Args:
        longest_first: shape (rows,), lengths in falling order.
        budget: padded tokens of a step; a longer row is a step by itself.

    Returns:
        Shape (steps,), the first one 0.
    """
    starts = _greedy_starts(longest_first, budget)
    # Search for the smallest budget that needs no more steps.
    low, high = budget // 2, budget
    while high - low > 1:
        middle = (low + high) // 2
        fewer = _greedy_starts(longest_first, middle)
        if len(fewer) <= len(starts):
            starts, high = fewer, middle
        else:
            low = middle
    return starts


def _greedy_starts(longest_first: np.ndarray, budget: int) -> np.ndarray:
    starts, row = [], 0
    while row < len(longest_first):
        starts.append(row)
        row += max(1, budget // int(longest_first[row]))
    return np.array(starts)


def smallest_step(starts: np.ndarray, rows: int) -> int:
    """Return the number of rows of the smallest step."""
    return int(np.diff(starts, append=rows).min())


def sufficient_budget(longest_first: np.ndarray, budget: int, step_rows: int) -> int:
    """Find a larger budget whose steps all have `step_rows` rows or more; at most one that has a single step."""
    single_step = len(longest_first) * int(longest_first[0])
    while budget < single_step:
        budget = max(math.ceil(budget * 1.1), step_rows * int(longest_first[0]))
        if smallest_step(step_starts(longest_first, budget), len(longest_first)) >= step_rows:
            return budget
    return single_step
