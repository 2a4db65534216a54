"""Columns of names beside the text or the image."""

from __future__ import annotations

from collections.abc import Sequence

from hf_finetune.features.extractors.base import OfColumns, Part, TableColumns
from hf_finetune.utils.config import Count, configclass


@configclass
class NominalColumns(OfColumns):
    """The columns of `data.features` that hold names: a feature for each name (one-hot). No name is a name, too."""

    columns: tuple[str, ...] = ()
    """Columns to read, of names or of numbers that stand for names. (): all that do not hold only numbers."""
    min_rows: Count = 2
    """Names of fewer training rows share one feature, with those that are new."""
    max_names: Count = 100
    """Number of features of a column, for the most frequent names."""

    expects = "columns of names, named by --features"

    @property
    def name(self) -> str:
        """names."""
        return "names"

    def readable(self, columns: TableColumns) -> tuple[str, ...]:
        """Return the columns of names."""
        return columns.names

    def parts(self, columns: TableColumns) -> Sequence[Part]:
        """Return the one-hot encoding of the columns."""
        from sklearn.preprocessing import OneHotEncoder

        encoder = OneHotEncoder(
            handle_unknown="infrequent_if_exist",
            min_frequency=self.min_rows,
            max_categories=self.max_names,
            sparse_output=False,
        )
        return [Part(self.name, encoder, self.chosen(columns))]
