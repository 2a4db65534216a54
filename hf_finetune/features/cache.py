"""A store of activations on disk: written whole or not at all, checked when opened, kept within a budget.

Legend: N rows, T tokens, D width.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_finetune.codec import write_json

logger = logging.getLogger("hf_finetune.run")

FORMAT = 1
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
MANIFEST, TOKENS, TABLE = "manifest.json", "tokens.bin", "rows.npy"
# A build that has not written for so long was killed.
ABANDONED_AFTER_SECONDS = 3600
# Left free on the disk, for the run itself.
SPARE_BYTES = 1_000_000_000


@dataclass(frozen=True)
class Store:
    """Activations of N rows, each with its own number of tokens, memory-mapped."""

    tokens_TD: torch.Tensor
    """All rows' tokens one after another, in the order in which they were computed."""
    starts_N: np.ndarray
    """First token of each row."""
    lengths_N: np.ndarray
    """Tokens of each row."""

    def __getitem__(self, row: int) -> torch.Tensor:
        """One row, shape (T, D)."""
        start = int(self.starts_N[row])
        return self.tokens_TD[start : start + int(self.lengths_N[row])]

    @property
    def size(self) -> int:
        """Bytes of the activations."""
        return self.tokens_TD.nbytes


def key_of(parts: Mapping[str, Any]) -> str:
    """Name of the store for everything that its content depends on."""
    text = json.dumps({"format": FORMAT, **parts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def open_store(folder: Path) -> Store | None:
    """Map a store, and note that it was used. None when there is none there, or when it is damaged, which is said."""
    if not folder.exists():
        return None
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        for name, expected in manifest["files"].items():
            if (folder / name).stat().st_size != expected["bytes"] or _sha256(folder / name) != expected["sha256"]:
                raise ValueError(f"{name} is not what its manifest says")
        starts, lengths = np.load(folder / TABLE, allow_pickle=False)
        width, dtype = int(manifest["width"]), DTYPES[manifest["dtype"]]
        os.utime(folder / MANIFEST)
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s: damaged (%s): it is built anew", folder, " ".join(str(error).split()))
        return None
    total = int(lengths.sum())
    mapped = torch.from_file(str(folder / TOKENS), shared=False, size=total * width, dtype=dtype)
    return Store(mapped.view(total, width), starts, lengths)


def write_store(
    folder: Path, chunks: Iterable[tuple[np.ndarray, list[torch.Tensor]]], *, rows: int, width: int, dtype: torch.dtype
) -> None:
    """Write a store beside its final place, then move it there.

    Args:
        chunks: `(row indices, one (T, D) tensor of `dtype` per row)`; every row once, in any order.
        rows: N.

    Raises:
        OSError: the disk is full, or not ours to write; nothing is left behind.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".partial-"))
    try:
        starts, lengths, written = np.zeros(rows, np.int64), np.zeros(rows, np.int64), 0
        digest = hashlib.sha256()
        with (partial / TOKENS).open("wb") as file:
            for indices, tensors in chunks:
                for row, tensor in zip(indices, tensors, strict=True):
                    starts[row], lengths[row] = written, len(tensor)
                    written += len(tensor)
                block = torch.cat(tensors).contiguous().view(torch.uint8).numpy()
                digest.update(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        np.save(partial / TABLE, np.stack([starts, lengths]))
        files = {
            TOKENS: {"bytes": (partial / TOKENS).stat().st_size, "sha256": digest.hexdigest()},
            TABLE: {"bytes": (partial / TABLE).stat().st_size, "sha256": _sha256(partial / TABLE)},
        }
        name = next(name for name, known in DTYPES.items() if known == dtype)
        write_json(partial / MANIFEST, {"format": FORMAT, "dtype": name, "width": width, "rows": rows, "files": files})
        # Gone when damaged; a whole one was put there meanwhile by another process.
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def make_room(home: Path, needed: int, budget: int) -> str | None:
    """Remove the least recently used stores until `needed` bytes more fit into the budget and on the disk.

    Args:
        home: folder of the stores.
        needed: bytes of the store to come.
        budget: bytes that all stores may take together.

    Returns:
        None, or why there is no room; nothing is removed then.
    """
    if needed > budget:
        return f"{needed / 1e9:.2f} GB are needed, batching.cache_gb allows {budget / 1e9:.2f}"
    home.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(home)
    stores = sorted(
        (s for s in home.iterdir() if (s / MANIFEST).is_file()), key=lambda s: (s / MANIFEST).stat().st_mtime
    )
    sizes = {store: sum(f.stat().st_size for f in store.iterdir()) for store in stores}
    free = shutil.disk_usage(home).free
    if needed + SPARE_BYTES > free + sum(sizes.values()):
        return f"{needed / 1e9:.2f} GB are needed and 1 GB to spare, {home} has {free / 1e9:.2f} GB free"
    for store in stores:
        if sum(sizes.values()) + needed <= budget and needed + SPARE_BYTES <= free:
            break
        logger.info("%s: removed, the store used least recently, to make room", store)
        shutil.rmtree(store, ignore_errors=True)
        free += sizes.pop(store)
    return None


def _remove_abandoned(home: Path) -> None:
    for partial in home.glob(".partial-*"):
        newest = max((f.stat().st_mtime for f in [partial, *partial.iterdir()]), default=0.0)
        if time.time() - newest > ABANDONED_AFTER_SECONDS:
            shutil.rmtree(partial, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
