"""Reader of a `datasets.Dataset`: a split on the Hub, in a folder of `save_to_disk`, or in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from datasets import Dataset

from hf_finetune.data.config import DEFAULT_LIMITS, DataLimits
from hf_finetune.data.image_paths import ImageFolder
from hf_finetune.data.readers.arrow_cells import in_pieces
from hf_finetune.data.readers.parquet_file import arrow_columns
from hf_finetune.data.readers.table import Chunk, Column
from hf_finetune.errors import InputError


@dataclass(frozen=True)
class DatasetSplit:
    """One split of a data set."""

    name: str
    """The data set and the split, for messages."""
    rows: Dataset
    images: ImageFolder | None = None
    """The folder of the images that are named by their path."""
    limits: DataLimits = DEFAULT_LIMITS
    yields_faults: bool = False
    """See `DataFile`."""
    notes: tuple[str, ...] = ()
    """Notes for the user on how the rows are read."""
    skipped: tuple[tuple[str, int], ...] = ()
    """Number of files that are not read."""

    def columns(self) -> dict[str, Column]:
        """Return the columns in order."""
        return arrow_columns(self.rows.features.arrow_schema, self.rows.features)

    def chunks(self, columns: Sequence[str], size: int) -> Iterator[Chunk]:
        """Yield rows in order, `size` at a time.

        Raises:
            InputError: there are no rows.
        """
        if len(self.rows) == 0:
            raise InputError(f"{self.name}: there are no rows")
        tables = self.rows.select_columns(list(columns)).with_format("arrow").iter(size)
        batches = (batch for table in tables for batch in table.to_batches())
        strict = not self.yields_faults
        for part in in_pieces(batches, size, self.name, self.limits, strict=strict):
            yield part.chunk(columns, self.images, strict=strict)
