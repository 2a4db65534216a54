"""Statistics over the numbers of a row."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hf_finetune.data.config import FEATURE
from hf_finetune.features.extractors.base import Computed, OfColumns, TableColumns
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

STATISTICS = ("min", "max", "mean", "variance", "missing")


@configclass
class RowStatistics(OfColumns, Computed):
    """Statistics over the numbers of a row, as of measurements of one kind: least, greatest, mean, variance, and how
    many are missing. The others are 0 where all are missing."""

    columns: tuple[str, ...] = ()
    """Columns to read. (): all of `data.features` that hold only numbers."""

    expects = "columns of numbers, named by --features"

    @property
    def name(self) -> str:
        """statistics."""
        return "statistics"

    def readable(self, columns: TableColumns) -> tuple[str, ...]:
        """Return the columns of numbers."""
        return columns.numbers

    def compute(self, rows: Dataset, columns: TableColumns, cache_gb: float = 0.0) -> tuple[Sequence[str], np.ndarray]:
        """Return the statistics of each row."""
        import numpy as np

        from hf_finetune.features.cells import numbers_of

        values_NK = np.stack([numbers_of(rows[FEATURE + name][:], name) for name in self.chosen(columns)], axis=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of rows without any number
            statistics = [each(values_NK, axis=1) for each in (np.nanmin, np.nanmax, np.nanmean, np.nanvar)]
        statistics.append(np.isnan(values_NK).sum(axis=1))
        return STATISTICS, np.nan_to_num(np.stack(statistics, axis=1)).astype(np.float32)
