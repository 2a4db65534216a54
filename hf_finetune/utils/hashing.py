"""SHA-256 of what a result depends on: files, weights, rows and settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from datasets import Dataset


def of_files(*paths: Path) -> str:
    """Of the files' contents, one after another.

    Raises:
        OSError: one cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def of_json(value: Any) -> str:
    """Of plain values, whatever the order of a dict's keys; of anything else its text counts."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def of_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """Of tensors with their names, number formats and shapes."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def of_columns(rows: Dataset) -> str:
    """Of columns of numbers and of lists of numbers, whatever the order of the columns."""
    digest = hashlib.sha256()
    table = rows.with_format("arrow")[:]
    for name in sorted(table.column_names):
        digest.update(f"{name} {len(table)}".encode())
        chunks = table.column(name).chunks
        # All lengths before all values: how the rows are cut into chunks is not seen.
        if table.schema.field(name).type.num_fields:
            for chunk in chunks:
                digest.update(chunk.value_lengths().to_numpy(zero_copy_only=False).tobytes())
            chunks = [chunk.flatten() for chunk in chunks]
        for chunk in chunks:
            digest.update(chunk.to_numpy(zero_copy_only=False).tobytes())
    return digest.hexdigest()
