"""Labels that are a number a row.

Legend: N rows.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from hf_finetune.data.labels import shortened
from hf_finetune.data.targets.base import LabelColumn, Settled, Targets, fixed_lists
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import Notes

MOST_STRATA, ROWS_PER_STRATUM = 10, 10
"""Numbers are held out by ranges of equal frequency: this many, or fewer on a few rows."""


class Numbers:
    """Reads finite numbers."""

    cell: ClassVar[pa.DataType] = pa.float64()
    fault: ClassVar[str] = "not a number"

    def read(self, value: Any, names: Sequence[str]) -> float | None:
        """Return the number of a cell, or None if it is missing.

        Raises:
            ValueError: the cell is no finite number.
        """
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        if isinstance(value, str | int | float) and not names:
            try:
                number = float(value)
            except ValueError:
                raise ValueError(f"the target is {shortened(value)}, expected a number") from None
            if math.isnan(number):
                return None
            if math.isfinite(number):
                return number
        raise ValueError(f"the target is {shortened(value)}, expected a finite number")


class Regression(Targets):
    """A number a row."""

    task = "regression"
    column_kinds = ("number", "string")
    expected = "numbers"
    stratum = "range of numbers"

    def reader(
        self, labels: Sequence[str] | None = None, owner: str = "", values: Mapping[str, str] | None = None
    ) -> Numbers:
        """Return a reader of numbers."""
        return Numbers()

    def settle(self, reader: Numbers, cells: pa.ChunkedArray, column: LabelColumn, notes: Notes) -> Settled:
        """Name the target after its column, and refuse one that does not vary."""
        if column.label_names:
            raise InputError("data.label_names: expected none with numbers, which are no classes; leave it out")
        values_N = cells.to_numpy()
        low, high = float(values_N.min()), float(values_N.max())
        if low == high:
            raise InputError(f"{column.place}: every row has the target {low:g}; expected numbers that differ")
        notes.add(
            f"target {column.name!r}: {low:g} to {high:g}, mean {values_N.mean():.4g}, deviation {values_N.std():.4g}"
        )
        return Settled((column.name,), self.encode(cells, ()), {})

    def encode(self, cells: pa.ChunkedArray, labels: Sequence[str]) -> pa.Array:
        """Return the numbers as rows of one target."""
        return fixed_lists(np.asarray(cells.to_numpy(), dtype=np.float64)[:, None])

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """Return ranges of equal frequency."""
        count = max(1, min(MOST_STRATA, len(labels) // ROWS_PER_STRATUM))
        edges = np.quantile(labels[:, 0], np.linspace(0, 1, count + 1)[1:-1])
        return np.searchsorted(edges, labels[:, 0], side="left")
