"""Store the activations of rows in the disk cache, see `utils.disk_cache`.

Legend: N rows, T tokens, D width.
"""

import io
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_finetune.utils import disk_cache
from hf_finetune.utils.messages import counted

logger = logging.getLogger("hf_finetune.run")

FORMAT = 1
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
TOKENS, TABLE = "tokens.bin", "rows.npy"


@dataclass(frozen=True)
class Activations:
    """Memory-mapped activations of N rows of different lengths."""

    tokens_TD: torch.Tensor
    """The tokens of all rows, in the order of their computation."""
    starts_N: np.ndarray
    """First token of each row."""
    lengths_N: np.ndarray
    """Tokens of each row."""

    def __getitem__(self, row: int) -> torch.Tensor:
        """Return one row, shape (T, D)."""
        start = int(self.starts_N[row])
        return self.tokens_TD[start : start + int(self.lengths_N[row])]

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.tokens_TD.nbytes


def find_activations(folder: Path) -> Activations | None:
    """Map cached activations, or return None if there are none or they are damaged."""
    return disk_cache.find(folder, _map)


def _map(folder: Path, manifest: dict[str, Any]) -> Activations:
    starts, lengths = np.load(folder / TABLE, allow_pickle=False)
    width, dtype, total = int(manifest["width"]), DTYPES[manifest["dtype"]], int(lengths.sum())
    mapped = torch.from_file(str(folder / TOKENS), shared=False, size=total * width, dtype=dtype)
    return Activations(mapped.view(total, width), starts, lengths)


def store_activations(
    folder: Path,
    chunks: Iterable[tuple[Sequence[int], list[torch.Tensor]]],
    *,
    rows: int,
    tokens: int,
    width: int,
    dtype: torch.dtype,
    budget_gb: float,
) -> None:
    """Write activations to the disk cache.

    Args:
        chunks: row indices, and one tensor (T, D) of `dtype` per row; every row once, in any order.
        rows: number of rows N.
        tokens: number of tokens of all rows.
        budget_gb: budget of the disk cache in gigabytes (10^9 bytes).

    Raises:
        CacheUnavailable: see `utils.disk_cache.building`.
    """
    table, position = np.zeros((2, rows), np.int64), 0
    about = {"format": FORMAT, "dtype": str(dtype).removeprefix("torch."), "width": width, "rows": rows}
    needed = tokens * width * dtype.itemsize + table.nbytes
    with disk_cache.building(folder, needed=needed, budget_gb=budget_gb, about=about) as build:
        logger.info("activations of %s: %.0f MB in %s", counted(rows, "row"), needed / 1e6, folder)
        for indices, tensors in chunks:
            for row, tensor in zip(indices, tensors, strict=True):
                table[:, row] = position, len(tensor)
                position += len(tensor)
            build.append(TOKENS, torch.cat(tensors).contiguous().view(torch.uint8).numpy())
        file = io.BytesIO()
        np.save(file, table)
        build.append(TABLE, file.getbuffer())
