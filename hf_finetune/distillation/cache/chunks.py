"""Arrays in the disk cache, a chunk of rows at a time: mapped where they lie, and taken up again after a killed run."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hf_finetune.utils import disk_cache
from hf_finetune.utils.files import write_bytes

logger = logging.getLogger("hf_finetune.run")

# Raised whenever the same rows come to be predicted otherwise, or predictions to be stored otherwise.
FORMAT = 2


def chunks_of(rows: int, size: int) -> list[np.ndarray]:
    """Cut the numbers of so many rows into chunks."""
    return [np.arange(start, min(start + size, rows)) for start in range(0, rows, size)]


def cached_chunks(
    key: Mapping[str, Any],
    shapes: Sequence[tuple[int, ...]],
    dtype: np.dtype,
    compute: Callable[[int], np.ndarray],
    *,
    name: str,
    budget_gb: float,
) -> tuple[list[np.ndarray], bool]:
    """Return arrays where an earlier run left them, else computed and cached, each as soon as it is there.

    Args:
        key: what the content depends on, as JSON has it.
        shapes, dtype: of each array.
        compute: the array of a number.
        name: of the content, for the log.
        budget_gb: gigabytes (10^9 bytes) that all caches may take on the disk.

    Returns:
        The arrays, mapped where they lie, and whether all of them were there.

    Raises:
        CacheUnavailable: see `utils.disk_cache.building_resumably`.
    """
    folder, missing = disk_cache.entry_folder("teacher", {"format": FORMAT, **key}), 0

    def read_all(folder: Path, _: dict[str, Any]) -> list[np.ndarray]:
        return [_read(folder / _file_name(i), shape, dtype) for i, shape in enumerate(shapes)]

    if (arrays := disk_cache.find(folder, read_all)) is None:
        needed = sum(map(math.prod, shapes)) * dtype.itemsize
        with disk_cache.building_resumably(
            folder, needed=needed, budget_gb=budget_gb, about={"chunks": len(shapes)}
        ) as part:
            missing = sum(
                _add(part / _file_name(i), shape, dtype, partial(compute, i)) for i, shape in enumerate(shapes)
            )
        if (arrays := disk_cache.find(folder, read_all)) is None:
            raise disk_cache.CacheUnavailable(f"{folder} was damaged as soon as it was written")
    disk_cache.pin(folder)
    if missing < len(shapes):
        logger.info("%s: %d of %d parts found in %s", name, len(shapes) - missing, len(shapes), folder)
    return arrays, missing == 0


def _add(file: Path, shape: tuple[int, ...], dtype: np.dtype, compute: Callable[[], np.ndarray]) -> bool:
    """Compute and write an array unless it is there, and return whether it was missing."""
    try:
        _read(file, shape, dtype)
    except (OSError, ValueError):
        content = io.BytesIO()
        np.save(content, compute(), allow_pickle=False)
        write_bytes(file, content.getvalue())
        return True
    return False


def _file_name(number: int) -> str:
    return f"{number:05d}.npy"


def _read(file: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Map an array.

    Raises:
        OSError: there is none.
        ValueError: it is another.
    """
    array = np.load(file, mmap_mode="r", allow_pickle=False)
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{file.name} has the shape {array.shape}, not {shape}")
    return array
