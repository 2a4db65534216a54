"""How each task reads, checks and splits the label column.

The column `label` of canonical rows then holds a class id; a 0 or 1 for each tag; or the numbers.

Legend: N rows, C classes, tags or targets.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa

from hf_finetune.data import splits
from hf_finetune.data.config import TaskName
from hf_finetune.utils.messages import Notes


class LabelReader(Protocol):
    """Reads the labels of one split."""

    cell: ClassVar[pa.DataType]
    """Type of a label as it is read."""
    fault: ClassVar[str]
    """Kind of fault of a cell that is no such label."""

    def read(self, value: Any, names: Sequence[str]) -> Any | None:
        """Return a label from a cell, or None if it is missing.

        Args:
            names: the source's own class names, if the cell has indices into them.

        Raises:
            ValueError: the cell is no label, or not a known one.
        """


@dataclass(frozen=True)
class LabelColumn:
    """The label column of the training rows."""

    name: str
    place: str
    """File of the rows, for messages."""
    declared: tuple[str, ...] = ()
    """Class names that the source declares."""
    label_names: tuple[str, ...] = ()
    """Names of labels that are numbers, see `Data.label_names`."""
    most_classes: int = 1_000
    """See `DataLimits.classes`."""


@dataclass(frozen=True)
class Settled:
    """What the training rows settle: the classes, and the column `label` in their order."""

    labels: tuple[str, ...]
    column: pa.Array | pa.ChunkedArray
    label_values: dict[str, str]
    """See `loading.Splits`."""


class Targets(ABC):
    """How the labels of a task are read and split."""

    task: ClassVar[TaskName]
    column_kinds: ClassVar[tuple[str, ...]]
    """Kinds of column that hold such labels, see `readers.table.Column`."""
    expected: ClassVar[str]
    """What such a column holds, for messages."""
    stratum: ClassVar[str]
    """What has its share in every split."""
    reads_words: ClassVar[bool] = False
    """Whether a row is a sentence of words, and a label a tag for each of them; see `data.words`."""

    @abstractmethod
    def reader(
        self, labels: Sequence[str] | None = None, owner: str = "", values: Mapping[str, str] | None = None
    ) -> LabelReader:
        """Return a reader of labels.

        Args:
            labels: the known classes, in the order of their ids. None: every label is accepted.
            owner: what has these classes, for messages.
            values: the names of labels that the source numbers.
        """

    @abstractmethod
    def settle(self, reader: Any, cells: pa.ChunkedArray, column: LabelColumn, notes: Notes) -> Settled:
        """Order the classes of the training rows, and check them.

        Args:
            reader: what read the labels.
            cells: the labels as they were read.

        Raises:
            InputError: these labels cannot be learned.
        """

    def encode(self, cells: pa.ChunkedArray, labels: Sequence[str]) -> pa.Array | pa.ChunkedArray:
        """Return the column `label` of rows that were read with these labels."""
        return cells

    def hold_out(
        self, labels: np.ndarray, first_N: np.ndarray, *, fraction: float, seed: tuple[int, int]
    ) -> np.ndarray:
        """Return the mask (N,) of the rows to hold out, see `splits.hold_out`."""
        return splits.hold_out(self.strata(labels), first_N, fraction=fraction, seed=seed)

    def subsample(self, labels: np.ndarray, *, count: int, seed: tuple[int, int]) -> np.ndarray:
        """Return the mask (N,) of `count` rows, see `splits.subsample`."""
        return splits.subsample(self.strata(labels), count=count, seed=seed)

    @abstractmethod
    def strata(self, labels: np.ndarray) -> np.ndarray:
        """Return groups (N,) whose shares a split should have, too."""

    def single_rows(self, labels: np.ndarray, names: Sequence[str]) -> list[str]:
        """Return the classes of a single row."""
        return []


def fixed_lists(values_NC: np.ndarray) -> pa.Array:
    """Return an array (N, C) as a column of lists of C values."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values_NC).ravel()), values_NC.shape[1])
