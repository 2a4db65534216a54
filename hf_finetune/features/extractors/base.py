"""What every feature extractor has.

An extractor that is fitted to the training rows, as TF-IDF is, is a stock transformer of scikit-learn on a column of a
table. One that reads each row by itself is computed before anything is fitted, and is columns of the table.

Legend: N rows, D features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from hf_finetune.errors import InputError
from hf_finetune.utils.messages import did_you_mean, quoted

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

StatePooling = Literal["mean", "cls", "max"]
"""How the vectors of tokens or places become one."""
SEED = 0
"""Seed of everything that is random."""


@dataclass(frozen=True)
class TableColumns:
    """The columns that extractors read, by the names that a table of rows has."""

    texts: tuple[str, ...] = ()
    """One, or both texts of a pair."""
    empty: tuple[str, ...] = ()
    """Those of `texts` that no training row has."""
    numbers: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    """Columns whose cells are names, or numbers that stand for names."""
    has_images: bool = False

    @property
    def filled(self) -> tuple[str, ...]:
        """The columns of texts that have words."""
        return tuple(name for name in self.texts if name not in self.empty)

    @property
    def description(self) -> str:
        """What the rows have, for messages."""
        rows = "images" if self.has_images else "pairs of texts" if len(self.texts) == 2 else "texts"
        more = {"numbers": self.numbers, "names": self.names}
        return " and ".join([rows, *(f"{kind} in {quoted(names)}" for kind, names in more.items() if names)])


class Part(NamedTuple):
    """A part of a `ColumnTransformer`."""

    name: str
    transformer: Any
    columns: str | list[str]
    """The name of a column, which it reads as a series; or a list of columns, which it reads as a table."""
    is_sparse: bool = False
    """Whether the features are too many for a classifier that needs all of them dense."""


class Extractor(ABC):
    """Turns columns of rows into features."""

    expects: ClassVar[str]
    """What it reads, for messages."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Short name of the features, for results and columns."""

    @abstractmethod
    def reads(self, columns: TableColumns) -> bool:
        """Return whether there is something to read."""

    @abstractmethod
    def parts(self, columns: TableColumns) -> Sequence[Part]:
        """Return the transformers of these columns."""

    def check(self, columns: TableColumns) -> None:
        """Refuse columns in which there is nothing to read.

        Raises:
            InputError: naming the extractor.
        """
        if not self.reads(columns):
            raise InputError(
                f"extractors: {type(self).__name__} expects {self.expects}, got {columns.description}; leave it out"
            )


class OfText(Extractor):
    """Reads texts."""

    expects = "texts"

    def reads(self, columns: TableColumns) -> bool:
        """Return whether the rows are texts."""
        return bool(columns.texts)


class OfImage(Extractor):
    """Reads images."""

    expects = "images"

    def reads(self, columns: TableColumns) -> bool:
        """Return whether the rows are images."""
        return columns.has_images


class OfColumns(Extractor):
    """Reads columns beside the text or the image.

    Attributes:
        columns: those to read. (): all that it can read.
    """

    columns: tuple[str, ...]

    @abstractmethod
    def readable(self, columns: TableColumns) -> tuple[str, ...]:
        """Return the columns that it can read."""

    def chosen(self, columns: TableColumns) -> list[str]:
        """Return the columns that it reads."""
        return list(self.columns or self.readable(columns))

    def reads(self, columns: TableColumns) -> bool:
        """Return whether it reads a column."""
        return bool(self.chosen(columns))

    def check(self, columns: TableColumns) -> None:
        """Refuse columns that it cannot read, see `Extractor.check`."""
        super().check(columns)
        known = self.readable(columns)
        for name in self.columns:
            if name not in known:
                raise InputError(
                    f"extractors: {type(self).__name__}: {name!r} is none of {self.expects}"
                    f"{did_you_mean(name, known)}; there are {quoted(known)}"
                )


class Computed(Extractor):
    """Features of each row by itself."""

    @abstractmethod
    def compute(self, rows: Dataset, columns: TableColumns, cache_gb: float = 0.0) -> tuple[Sequence[str], np.ndarray]:
        """Return the names of the features, and the features, shape (N, D), float32.

        Args:
            rows: canonical rows.
            columns: those of the table, for names.
            cache_gb: budget of the disk cache, of what is slow to compute. 0: nothing is cached.
        """

    @property
    def prefix(self) -> str:
        """What the names of its columns begin with."""
        return f"{self.name}:"

    def parts(self, columns: TableColumns) -> Sequence[Part]:
        """Return nothing: the features are columns of the table, see `part`."""
        return ()

    def part(self, names: Sequence[str], *, scaled: bool) -> Part:
        """Return the features among the columns of a table.

        Args:
            names: columns of the table that are none of the source.
            scaled: standardize them.
        """
        from sklearn.preprocessing import StandardScaler

        mine = [name for name in names if name.startswith(self.prefix)]
        return Part(self.name, StandardScaler() if scaled else "passthrough", mine)
