"""Cells of feature columns, which are texts in canonical rows, as numbers and names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from hf_finetune.errors import InputError
from hf_finetune.utils.messages import row_place, short


def are_numbers(cells: Iterable[str | None]) -> bool:
    """Return whether all cells that are there are finite numbers, and there is one."""
    present = [cell for cell in cells if cell is not None]
    return bool(present) and all(_number(cell) is not None for cell in present)


def numbers_of(cells: Sequence[str | None], column: str, rows: Sequence[int] | None = None) -> np.ndarray:
    """Return the numbers of a column, shape (N,), float64; NaN for missing ones.

    Args:
        column: its name, for messages.
        rows: number of each row, for messages. None: in order.

    Raises:
        InputError: a cell is no finite number, which those of the training rows were.
    """
    numbers = np.full(len(cells), np.nan)
    for i, cell in enumerate(cells):
        if cell is None:
            continue
        if (number := _number(cell)) is None:
            place = row_place(i if rows is None else rows[i])
            raise InputError(
                f"{place}, column {column!r}: expected a number, as in the training rows, got {short(cell)}; correct "
                "it, or leave it empty"
            )
        numbers[i] = number
    return numbers


def _number(cell: str) -> float | None:
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
