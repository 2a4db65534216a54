"""Arrays in the disk cache, a chunk of rows at a time: mapped where they lie, and taken up again after a killed run."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_finetune.utils import disk_cache
from hf_finetune.utils.files import write_bytes

logger = logging.getLogger("hf_finetune.run")

# Raised whenever the same rows come to be predicted otherwise, or predictions to be stored otherwise.
FORMAT = 2


@dataclass(frozen=True)
class Chunks:
    """How rows are cut into chunks, and what a chunk looks like."""

    name: str
    """Of the content, for the log."""
    rows: int
    size: int
    """Rows of a chunk; what a killed run may lose."""
    template: np.ndarray
    """A chunk whose first dimension is 1."""
    heights: Sequence[int] | None = None
    """Of each chunk, its first dimension. None: its rows."""

    @property
    def row_numbers(self) -> list[np.ndarray]:
        """The numbers of the rows of each chunk."""
        return [np.arange(start, min(start + self.size, self.rows)) for start in range(0, self.rows, self.size)]

    def shapes(self) -> list[tuple[int, ...]]:
        """The shape of each chunk."""
        heights = map(len, self.row_numbers) if self.heights is None else self.heights
        return [(height, *self.template.shape[1:]) for height in heights]


def cached_chunks(
    key: Mapping[str, Any], chunks: Chunks, compute: Callable[[np.ndarray], np.ndarray], *, budget_gb: float
) -> tuple[list[np.ndarray], bool]:
    """Return chunks where an earlier run left them, else computed and cached, each as soon as it is there.

    Args:
        key: what the content depends on, as JSON has it.
        compute: `numbers of rows (n,) -> their chunk`.
        budget_gb: gigabytes (10^9 bytes) that all caches may take on the disk.

    Returns:
        The chunks, mapped where they lie, and whether all of them were there.

    Raises:
        NoStore: see `utils.disk_cache.growing`.
    """
    folder = disk_cache.folder_of("teacher", {"format": FORMAT, "size": chunks.size, **key})
    shapes, missing = chunks.shapes(), 0

    def read(folder: Path, _: dict[str, Any]) -> list[np.ndarray]:
        return [_read(folder, i, shape, chunks.template.dtype) for i, shape in enumerate(shapes)]

    if (cached := disk_cache.find(folder, read)) is None:
        needed = sum(shape[0] for shape in shapes) * chunks.template.nbytes
        with disk_cache.growing(folder, needed=needed, budget_gb=budget_gb, about={"rows": chunks.rows}) as part:
            for i, (numbers, shape) in enumerate(zip(chunks.row_numbers, shapes, strict=True)):
                try:
                    _read(part, i, shape, chunks.template.dtype)
                except (OSError, ValueError):
                    missing += 1
                    content = io.BytesIO()
                    np.save(content, compute(numbers), allow_pickle=False)
                    write_bytes(part / _file_name(i), content.getvalue())
        if (cached := disk_cache.find(folder, read)) is None:
            raise disk_cache.NoStore(f"{folder} was damaged as soon as it was written")
    disk_cache.hold(folder)
    if missing == 0:
        logger.info("%s: found in %s", chunks.name, folder)
    elif missing < len(shapes):
        logger.info("%s: %d of %d parts were there, of a stopped run", chunks.name, len(shapes) - missing, len(shapes))
    return cached, missing == 0


def _file_name(chunk: int) -> str:
    return f"{chunk:05d}.npy"


def _read(folder: Path, chunk: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Map a chunk.

    Raises:
        OSError: there is none.
        ValueError: it is another.
    """
    array = np.load(folder / _file_name(chunk), mmap_mode="r", allow_pickle=False)
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{_file_name(chunk)} has the shape {array.shape}, not {shape}")
    return array
