"""Reader of rows in memory: data frames, lists, and other tables that Arrow can hold."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Features

from hf_finetune.data.config import DEFAULT_LIMITS, DataLimits
from hf_finetune.data.image_decoding import ORIENTATION, EncodedImage, are_image_names
from hf_finetune.data.image_paths import ImageFolder
from hf_finetune.data.readers.arrow_cells import in_pieces
from hf_finetune.data.readers.parquet_file import arrow_columns
from hf_finetune.data.readers.table import Chunk, Column, batched
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import one_line, row_place, short

if TYPE_CHECKING:
    from PIL.Image import Image

AN_IMAGE = "an image of Pillow, its path, or an array of uint8, shape (H, W, 3) or (H, W)"
IMAGE = pa.struct({"bytes": pa.large_binary(), "path": pa.string()})
# Modes of Pillow that a PNG file holds as they are.
PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")


@runtime_checkable
class ArrowStream(Protocol):
    """A table or column that exports Arrow's stream of record batches: of polars, pyarrow, DuckDB and others."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object: ...


@runtime_checkable
class _HasColumns(Protocol):
    columns: Any


def is_arrow_table(data: Any) -> bool:
    """Return whether an object is a table that exports Arrow, and not a single column."""
    return isinstance(data, ArrowStream) and isinstance(data, _HasColumns)


@dataclass(frozen=True)
class MemoryTable:
    """Rows in memory."""

    name: str
    """What holds the rows, for messages."""
    table: pa.Table
    objects: Mapping[str, list] = field(default_factory=dict)
    """The values of columns that Arrow cannot hold, such as those of several types."""
    images: ImageFolder | None = None
    """The folder of the images that are named by their path."""
    limits: DataLimits = DEFAULT_LIMITS
    yields_faults: bool = False
    """See `DataFile`."""
    first: int = 0
    """Number of the first row, for messages."""
    notes: tuple[str, ...] = ()
    """Notes for the user on how the rows are read."""
    skipped: tuple[tuple[str, int], ...] = ()
    """Number of files that are not read."""

    def columns(self) -> dict[str, Column]:
        """Return the columns."""
        columns = arrow_columns(self.table.schema, Features()) | {n: _of_objects(v) for n, v in self.objects.items()}
        for name, column in columns.items():
            # The first value that is no name ends it.
            if column.kind == "string" and name not in self.objects and are_image_names(_values(self.table[name])):
                columns[name] = replace(column, names_images=True)
        return columns

    def chunks(self, columns: Sequence[str], size: int) -> Iterator[Chunk]:
        """Yield rows in order, at most `size` at a time.

        Raises:
            InputError: there are no rows.
        """
        empty = True
        for stored in self._pieces([name for name in columns if name not in self.objects], size):
            empty, first = False, stored.first
            values = {
                name: self.objects[name][first : first + stored.size] if name in self.objects else stored.columns[name]
                for name in columns
            }
            yield replace(stored, columns=values, first=self.first + first)
        if empty:
            raise InputError(f"{self.name}: there are no rows")

    def _pieces(self, columns: Sequence[str], size: int) -> Iterator[Chunk]:
        """Yield rows with their columns in Arrow, counted from the first one of the table."""
        if not columns:
            for first, part in batched(range(max(map(len, self.objects.values()))), size):
                yield Chunk({}, len(part), self.name, first, images=self.images)
            return
        batches = self.table.select(list(columns)).to_batches(max_chunksize=size)
        strict = not self.yields_faults
        for piece in in_pieces(batches, size, self.name, self.limits, strict=strict):
            yield piece.chunk(columns, self.images, strict=strict)


def memory_table(name: str, columns: Mapping[str, Any]) -> MemoryTable:
    """Return a reader of columns: lists, arrays or Series of one length.

    Raises:
        InputError: the columns differ in length, or an image cannot be stored.
    """
    if wrong := [
        column for column, values in columns.items() if isinstance(values, str) or not isinstance(values, Sized)
    ]:
        raise InputError(f"{name}, column {wrong[0]!r}: expected a list, got {short(columns[wrong[0]])}")
    lengths = {column: len(values) for column, values in columns.items()}
    if len(set(lengths.values())) > 1:
        spelled = ", ".join(f"{length} {column}" for column, length in lengths.items())
        raise InputError(f"{name}: the columns differ in length: {spelled}")
    converted = {column: _converted(values, f"{name}, column {column!r}") for column, values in columns.items()}
    objects = {column: content for column, content in converted.items() if isinstance(content, list)}
    return MemoryTable(name, pa.table({c: v for c, v in converted.items() if c not in objects}), objects)


def frame_table(name: str, frame: pd.DataFrame) -> MemoryTable:
    """Return a reader of a pandas DataFrame, without its index.

    Raises:
        InputError: two columns have one name, or an image cannot be stored.
    """
    names = [str(column) for column in frame.columns]
    if twice := sorted({column for column in names if names.count(column) > 1}):
        raise InputError(f"{name}: two columns are called {twice[0]!r}; rename one of them")
    return memory_table(name, {column: frame.iloc[:, i] for i, column in enumerate(names)})


def exported_table(name: str, table: ArrowStream) -> MemoryTable:
    """Return a reader of a table that exports Arrow.

    Raises:
        InputError: it has a column that Arrow cannot hold.
    """
    try:
        return MemoryTable(name, pa.table(table))
    except Exception as error:  # each library raises its own
        reason = " ".join(str(error).split())
        raise InputError(
            f"{name}: it cannot be read as an Arrow table ({reason[:150]}); leave the column out"
        ) from error


def is_image(value: Any) -> bool:
    """Return whether a value is an image in memory, its pixels, its file's bytes, or its path."""
    if isinstance(value, np.ndarray):
        return value.ndim in (2, 3) and value.dtype.kind in "buif"
    return isinstance(value, bytes | Path) or _is_pillow(value)


def first_present(values: Any) -> Any:
    """Return the first value that is not None."""
    return next((value for value in values if value is not None), None)


def _is_pillow(value: Any) -> bool:
    pillow = sys.modules.get("PIL.Image")  # not imported: there can be no image of it
    return pillow is not None and isinstance(value, pillow.Image)


def _converted(values: Any, place: str) -> pa.Array | pa.ChunkedArray | list:
    """Return values as an Arrow array, missing ones as null, or as they are if Arrow cannot hold them."""
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        content = [value.item() if isinstance(value, np.generic) else value for value in values]
    if is_image(first_present(content)):
        return pa.array([encoded(value, f"{place}, {row_place(i)}") for i, value in enumerate(content)], IMAGE)
    return [None if value is pd.NA or value is pd.NaT else value for value in content]


def _values(column: pa.ChunkedArray) -> Iterator[Any]:
    return (value.as_py() for value in column)


def _of_objects(values: list) -> Column:
    types = sorted({type(value).__name__ for value in values if value is not None})
    return Column("string" if "str" in types else "other", f"values of several types ({', '.join(types[:5])})")


def encoded(value: Any, place: str) -> EncodedImage | None:
    """Return an image as the bytes of a file, or as a path.

    Raises:
        InputError: it is no image, or has pixels that no PNG file can hold.
    """
    if value is None or isinstance(value, bytes):
        return None if value is None else {"bytes": value, "path": None}
    if isinstance(value, str | os.PathLike):
        return {"bytes": None, "path": os.fspath(value)}
    if isinstance(value, np.ndarray):
        value = _of_pixels(value, place)
    if not _is_pillow(value):
        raise InputError(f"{place}: expected {AN_IMAGE}, got {type(value).__name__}")
    return {"bytes": _png(value, place), "path": None}


def _of_pixels(pixels: np.ndarray, place: str) -> Image:
    """Return an image of pixels (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), uint8.

    Raises:
        InputError: they have another shape or type.
    """
    from PIL import Image

    channels = pixels.shape[2:] or (1,)
    if pixels.dtype == np.uint8 and pixels.ndim in (2, 3) and channels[0] in (1, 3, 4):
        return Image.fromarray(pixels.squeeze(2) if pixels.shape[2:] == (1,) else pixels)
    remedy = ""
    if pixels.ndim == 3 and channels[0] not in (1, 3, 4) and pixels.shape[0] in (1, 3, 4):
        remedy = "; move the channels to the end, x.transpose(1, 2, 0)"
    elif pixels.dtype.kind == "f":
        remedy = "; of values from 0 to 1 make (255 * x).round().astype('uint8')"
    elif pixels.dtype.kind in "biu" and pixels.dtype != np.uint8:
        remedy = "; convert it, x.astype('uint8')"
    raise InputError(f"{place}: expected {AN_IMAGE}, got an array of {pixels.dtype}, shape {pixels.shape}{remedy}")


def _png(image: Image, place: str) -> bytes:
    """Return an image as a PNG file, which keeps every pixel and the EXIF orientation."""
    from PIL.Image import Exif

    file, exif = io.BytesIO(), Exif()
    try:
        if orientation := image.getexif().get(ORIENTATION):
            exif[ORIENTATION] = orientation
        stored = image if image.mode in PNG_MODES else image.convert("RGB")
        stored.save(file, "PNG", compress_level=1, exif=exif)
    except Exception as error:  # Pillow reads the file only now, and decoders raise whatever stops them
        raise InputError(f"{place}: the image cannot be stored ({one_line(error)})") from error
    return file.getvalue()
