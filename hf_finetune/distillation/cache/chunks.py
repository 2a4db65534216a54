"""Arrays in the disk cache, a chunk of rows each: memory-mapped, and completed by the next run after a killed one."""

import hashlib
import io
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_finetune.utils import disk_cache
from hf_finetune.utils.files import write_bytes

logger = logging.getLogger("hf_finetune.run")

# Raise this number whenever the same rows are predicted or stored in another way.
FORMAT = 2


def chunks_of(rows: int, size: int) -> list[np.ndarray]:
    """Split the row numbers into chunks."""
    return [np.arange(start, min(start + size, rows)) for start in range(0, rows, size)]


@dataclass(frozen=True)
class ChunkCache:
    """The arrays of a key, in one folder of the disk cache."""

    key: Mapping[str, Any]
    """What the content depends on, as JSON values."""
    shapes: Sequence[tuple[int, ...]]
    """Shape of each array."""
    dtype: np.dtype
    name: str
    """Name of the content, for the log."""

    def load(self, compute: Callable[[int], np.ndarray], *, budget_gb: float) -> tuple[list[np.ndarray], bool]:
        """Return the arrays, memory-mapped, and whether all were cached; compute and write those that were not.

        Args:
            compute: returns the array of an index.
            budget_gb: gigabytes (10^9 bytes) that all caches may take on the disk.

        Raises:
            CacheUnavailable: see `utils.disk_cache.building_resumably`.
        """
        folder, computed = disk_cache.entry_folder("teacher", {"format": FORMAT, **self.key}), 0
        if (arrays := disk_cache.find(folder, self._read_all)) is None:
            needed, about = sum(map(math.prod, self.shapes)) * self.dtype.itemsize, {"chunks": len(self.shapes)}
            with disk_cache.building_resumably(folder, needed=needed, budget_gb=budget_gb, about=about) as unfinished:
                computed = sum(self._add(unfinished, i, compute) for i in range(len(self.shapes)))
            if (arrays := disk_cache.find(folder, self._read_all)) is None:
                raise disk_cache.CacheUnavailable(f"{folder} was damaged as soon as it was written")
        disk_cache.pin(folder)
        if computed < len(self.shapes):
            cached = len(self.shapes) - computed
            logger.info("%s: %d of %d parts found in %s", self.name, cached, len(self.shapes), folder)
        return arrays, computed == 0

    def _add(self, folder: Path, i: int, compute: Callable[[int], np.ndarray]) -> bool:
        """Write an array unless it is there, and return whether it was computed.

        Its hash follows it in the file: a run that was killed leaves chunks without a manifest.
        """
        file = _file(folder, i)
        if _is_whole(file):
            return False
        content = io.BytesIO()
        np.save(content, compute(i), allow_pickle=False)
        write_bytes(file, content.getvalue() + hashlib.sha256(content.getvalue()).digest())
        return True

    def _read_all(self, folder: Path, _: dict[str, Any]) -> list[np.ndarray]:
        return [self._read(folder, i) for i in range(len(self.shapes))]

    def _read(self, folder: Path, i: int) -> np.ndarray:
        """Map an array.

        Raises:
            OSError: there is no such file.
            ValueError: it holds another array.
        """
        file = _file(folder, i)
        array = np.load(file, mmap_mode="r", allow_pickle=False)
        if array.dtype != self.dtype or array.shape != self.shapes[i]:
            raise ValueError(f"{file.name}: expected {self.dtype} {self.shapes[i]}, got {array.dtype} {array.shape}")
        return array


def _is_whole(file: Path) -> bool:
    """Return whether a file ends in the hash of what comes before."""
    try:
        content = file.read_bytes()
    except OSError:
        return False
    size = hashlib.sha256().digest_size
    return hashlib.sha256(memoryview(content)[:-size]).digest() == content[-size:]


def _file(folder: Path, i: int) -> Path:
    return folder / f"{i:05d}.npy"
