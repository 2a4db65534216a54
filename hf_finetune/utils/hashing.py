"""SHA-256 hashes of what a result depends on: files, weights, rows and settings."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from datasets import Dataset


def of_files(*paths: Path) -> str:
    """Hash the concatenated contents of files.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def of_bytes(content: bytes | None) -> str | None:
    """Hash bytes, if there are any."""
    return None if content is None else hashlib.sha256(content).hexdigest()


def of_each(files: Mapping[str, Path]) -> dict[str, str]:
    """Hash files one by one; returns the SHA-256 by the name of each.

    Raises:
        OSError: a file cannot be read.
    """
    return {name: of_files(path) for name, path in files.items()}


def of_json(value: Any) -> str:
    """Hash plain values regardless of the order of keys; other values count by their text."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain values with their own hash beside them, which `unsealed` compares."""
    return {**content, "sha256": of_json(content)}


def unsealed(content: Any) -> dict[str, Any]:
    """Return what `sealed` was given.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(content, dict) or content.get("sha256") != of_json(
        values := {name: value for name, value in content.items() if name != "sha256"}
    ):
        raise ValueError("it does not have the SHA-256 that stands in it")
    return values


def of_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """Hash tensors with their names, dtypes and shapes."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def of_columns(rows: Dataset) -> str:
    """Hash columns of numbers and of lists of numbers, regardless of the order of the columns."""
    digest = hashlib.sha256()
    table = rows.with_format("arrow")[:]
    for name in sorted(table.column_names):
        digest.update(f"{name} {len(table)}".encode())
        chunks = table.column(name).chunks
        # Lengths come before values, so that the division into chunks does not matter.
        if table.schema.field(name).type.num_fields:
            for chunk in chunks:
                digest.update(chunk.value_lengths().to_numpy(zero_copy_only=False).tobytes())
            chunks = [chunk.flatten() for chunk in chunks]
        for chunk in chunks:
            digest.update(chunk.to_numpy(zero_copy_only=False).tobytes())
    return digest.hexdigest()


def of_rows(rows: Dataset) -> list[str]:
    """Hash each row of columns of lists of numbers, regardless of the order of the columns."""
    digests = [hashlib.sha256() for _ in range(len(rows))]
    table = rows.with_format("arrow")[:]
    for name in sorted(table.column_names):
        for digest, values in zip(digests, _lists(table.column(name)), strict=True):
            # Lengths come before values, so that these belong to one column.
            digest.update(b"%b %d:%b" % (name.encode(), len(values), values))
    return [digest.hexdigest() for digest in digests]


def _lists(column: pa.ChunkedArray) -> Iterator[bytes]:
    """Yield the bytes of each list of a column; of lists of lists, which few tokenizers make, their text."""
    for chunk in column.chunks:
        if chunk.type.value_type.num_fields:
            yield from (repr(value).encode() for value in chunk.to_pylist())
        else:
            values, offsets = chunk.values.to_numpy(zero_copy_only=False), chunk.offsets.to_numpy()
            yield from (values[start:end].tobytes() for start, end in itertools.pairwise(offsets.tolist()))
