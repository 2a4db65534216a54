"""Labels that are a number a row, or one for each of several targets.

Legend: N rows, T targets.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from hf_finetune.data.labels import label_array, shortened
from hf_finetune.data.targets.base import LabelColumn, Settled, Targets, fixed_lists
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import Notes

MOST_STRATA, ROWS_PER_STRATUM = 10, 10
"""Numbers are held out by ranges of equal frequency: this many, or fewer on a few rows."""


LARGEST, LEAST_DEVIATION = 1e30, 1e-6
"""Size of a number, and the least deviation relative to it, that the float32 of a network tells apart."""


@dataclass(frozen=True)
class Numbers:
    """Reads finite numbers."""

    targets: tuple[str, ...] = ()
    """Their columns, in the order of the outputs. (): those of the rows."""
    cell: ClassVar[pa.DataType] = pa.list_(pa.float64())
    fault: ClassVar[str] = "not a number"

    def read(self, value: Any, names: Sequence[str]) -> list[float] | None:
        """Return the numbers of a cell, one for each target, or None if it is missing.

        Raises:
            ValueError: the cell is no finite number, only some of the targets are missing, or there are others.
        """
        if not isinstance(value, Mapping):
            return self._checked([finite_number(value, "the target")])
        order = self.targets if set(self.targets) == set(value) else tuple(value)
        return self._checked([finite_number(value[name], f"the target {name!r}") for name in order])

    def _checked(self, numbers: list[float | None]) -> list[float] | None:
        present = [number for number in numbers if number is not None]
        if self.targets and len(numbers) != len(self.targets):
            raise ValueError(f"{len(numbers)} numbers, expected the {len(self.targets)} of {', '.join(self.targets)}")
        if 0 < len(present) < len(numbers):
            raise ValueError("one of the targets is empty, expected a number for each")
        return present or None


def finite_number(value: Any, name: str) -> float | None:
    """Return the number of a cell, or None if it is missing.

    Args:
        name: begins the message.

    Raises:
        ValueError: the cell is no finite number.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str | int | float):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            raise ValueError(f"{name} is {shortened(value)}, expected a number") from None
        if math.isnan(number):
            return None
        if abs(number) <= LARGEST:
            return number
        if math.isfinite(number):
            raise ValueError(
                f"{name} is {shortened(value)}, expected at most {LARGEST:g}, as networks compute in float32; divide "
                "the column"
            )
    raise ValueError(f"{name} is {shortened(value)}, expected a finite number")


class Regression(Targets):
    """A number a row, or one for each of several targets."""

    task = "regression"
    column_kinds = ("number", "string", "columns")
    expected = "numbers"
    stratum = "range of numbers"

    def reader(
        self, labels: Sequence[str] | None = None, owner: str = "", values: Mapping[str, str] | None = None
    ) -> Numbers:
        """Return a reader of numbers."""
        return Numbers(tuple(labels or ()))

    def settle(self, reader: Numbers, cells: pa.ChunkedArray, column: LabelColumn, notes: Notes) -> Settled:
        """Name the targets after their columns, and refuse one that does not vary."""
        if column.label_names:
            raise InputError("data.label_names: expected none with numbers, which are no classes; leave it out")
        encoded, names = self.encode(cells, ()), column.declared or (column.name,)
        for name, values_N in zip(names, label_array(encoded).T, strict=True):
            low, high = float(values_N.min()), float(values_N.max())
            if low == high:
                target = f"target {low:g}" if len(names) == 1 else f"target {name!r} at {low:g}"
                raise InputError(f"{column.place}: every row has the {target}; expected numbers that differ")
            if values_N.std() < max(LEAST_DEVIATION * max(abs(low), abs(high)), 1 / LARGEST):
                raise InputError(
                    f"{column.place}: the targets in column {name!r} differ by less ({low:.10g} to {high:.10g}) than "
                    "the float32 of a network tells apart; subtract their mean, or multiply them"
                )
            notes.add(
                f"target {name!r}: {low:g} to {high:g}, mean {values_N.mean():.4g}, deviation {values_N.std():.4g}"
            )
        return Settled(names, encoded, {})

    def encode(self, cells: pa.ChunkedArray, labels: Sequence[str]) -> pa.Array:
        """Return the numbers as rows of all targets."""
        return fixed_lists(label_array(cells))

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """Return ranges of equal frequency; of several targets, those of their mean in units of their deviation."""
        count = max(1, min(MOST_STRATA, len(labels) // ROWS_PER_STRATUM))
        values_N = labels[:, 0]
        if labels.shape[1] > 1:
            values_N = (labels / np.maximum(labels.std(axis=0), np.finfo(float).tiny)).mean(axis=1)
        edges = np.quantile(values_N, np.linspace(0, 1, count + 1)[1:-1])
        return np.searchsorted(edges, values_N, side="left")
