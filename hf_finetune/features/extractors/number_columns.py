"""Columns of numbers beside the text or the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_finetune.features.extractors.base import OfColumns, Part, TableColumns
from hf_finetune.features.transforms.scale_features import ScaleBy, scaler
from hf_finetune.utils.config import configclass


@configclass
class NumberColumns(OfColumns):
    """The columns of `data.features` that hold numbers. A missing number is the median, and a feature says so."""

    columns: tuple[str, ...] = ()
    """Columns to read. (): all that hold only numbers."""
    scale: ScaleBy | None = "standard"
    """How they are scaled: standard (mean 0, deviation 1), min-max (0 to 1) or robust (median and quartiles). None:
    not at all, which trees do not need."""

    expects = "columns of numbers, named by --features"

    @property
    def name(self) -> str:
        """numbers."""
        return "numbers"

    def readable(self, columns: TableColumns) -> tuple[str, ...]:
        """Return the columns of numbers."""
        return columns.numbers

    def parts(self, columns: TableColumns) -> Sequence[Part]:
        """Return the imputation and scaling of the columns."""
        from sklearn.impute import SimpleImputer
        from sklearn.pipeline import Pipeline

        steps: list[tuple[str, Any]] = [
            ("impute", SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True))
        ]
        if self.scale is not None:
            steps.append(("scale", scaler(self.scale)))
        return [Part(self.name, Pipeline(steps), self.chosen(columns))]
