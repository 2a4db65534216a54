"""Exact duplicates, by a digest of each row's input, and the fingerprint of the data.

Legend: N rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hf_finetune.data.config import FEATURE
from hf_finetune.data.image_paths import open_regular
from hf_finetune.data.ragged import Ragged, flat
from hf_finetune.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

ROWS_AT_ONCE = 256


def row_digests(table: pa.Table) -> list[bytes]:
    """Return the SHA-256 of each row's input: the text, the pair of texts, or the bytes of the image file; and of its
    features, if it has some."""
    features = [name for name in table.column_names if name.startswith(FEATURE)]
    if features:
        cells = zip(*(table.column(name).to_pylist() for name in features), strict=True)
        alone = row_digests(table.drop_columns(features))
        parts = zip(alone, map(json.dumps, cells), strict=True)
        return [hashlib.sha256(digest + cell.encode()).digest() for digest, cell in parts]
    digests = []
    names = [name for name in ("text", "text_pair", "image") if name in table.column_names]
    for batch in table.select(names).to_batches():
        columns = [batch.column(name).to_pylist() for name in names]
        if names == ["image"]:
            digests += [_image_digest(image) for image in columns[0]]
        elif names == ["text"]:
            digests += [hashlib.sha256(text.encode()).digest() for text in columns[0]]
        else:
            digests += [_pair_digest(*pair) for pair in zip(*columns, strict=True)]
    return digests


def _pair_digest(first: str, second: str) -> bytes:
    start = first.encode()
    # The length prefix distinguishes ("ab", "c") from ("a", "bc").
    return hashlib.sha256(b"%d:%b%b" % (len(start), start, second.encode())).digest()


def _image_digest(image: dict) -> bytes:
    if image["bytes"] is not None:
        return hashlib.sha256(image["bytes"]).digest()
    try:
        with open(open_regular(image["path"]), "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except (OSError, ValueError) as error:
        raise InputError(f"{image['path']}: cannot be read any more ({error}); restore it, and start again") from None


def dataset_digests(rows: Dataset) -> list[bytes]:
    """Return the `row_digests` of a Dataset, a few rows at a time: selected rows are copied, images included."""
    return [digest for part in rows.with_format("arrow").iter(ROWS_AT_ONCE) for digest in row_digests(part)]


def first_occurrences(digests: Sequence[bytes]) -> np.ndarray:
    """Return for each row the index of the first row with the same input, shape (N,)."""
    first: dict[bytes, int] = {}
    return np.fromiter((first.setdefault(digest, i) for i, digest in enumerate(digests)), np.int64, len(digests))


def first_sources(rows: Dataset, *, by_content: bool = True) -> np.ndarray:
    """Return for each row the index of the first row with the same input or row number, shape (N,).

    Augmented copies have the row number of their original.

    Args:
        rows: canonical rows of one split, copies after their originals.
        by_content: False: compare row numbers only, for images that are cached as pixels.
    """
    numbers: list[int] = rows["row"][:]
    digests = dataset_digests(rows) if by_content else [b"%d" % number for number in numbers]
    known: dict[int, bytes] = {}
    return first_occurrences([known.setdefault(n, digest) for n, digest in zip(numbers, digests, strict=True)])


def fingerprint(labels: Sequence[str], splits: Mapping[str, tuple[Sequence[bytes], Any]]) -> str:
    """Return the SHA-256 of the class names and, by split, of all input digests and labels."""
    total = hashlib.sha256(json.dumps(list(labels)).encode())
    for name, (digests, labels_N) in splits.items():
        total.update(f"{name} {len(digests)}".encode())
        total.update(b"".join(digests))
        kind = "<f8" if labels_N.dtype.kind == "f" else "<i8"
        total.update(np.ascontiguousarray(flat(labels_N), dtype=kind).tobytes())
        if isinstance(labels_N, Ragged):
            total.update(labels_N.offsets.tobytes())
    return total.hexdigest()
