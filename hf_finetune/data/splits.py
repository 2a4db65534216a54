"""Dividing rows: stratified and seeded carving, exact duplicates, the order of the classes, the data's fingerprint.

Legend: N rows, C classes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from hf_finetune.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset


ROWS_AT_ONCE = 256


def order_classes(names: Iterable[str], declared: Sequence[str] = ()) -> tuple[str, ...]:
    """Class names in the order that the source declares, else numerically if all are whole numbers, else sorted."""
    names = set(names)
    if names <= set(declared):
        return tuple(name for name in declared if name in names)
    if all(re.fullmatch(r"-?\d{1,18}", name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def row_digests(table: pa.Table) -> list[bytes]:
    """SHA-256 of each row's input: the text or the pair, or the bytes of the picture's file."""
    digests = []
    names = [name for name in ("text", "text_pair", "image") if name in table.column_names]
    for batch in table.select(names).to_batches():
        columns = [batch.column(name).to_pylist() for name in names]
        if names == ["image"]:
            digests += [_picture_digest(picture) for picture in columns[0]]
        elif names == ["text"]:
            digests += [hashlib.sha256(text.encode()).digest() for text in columns[0]]
        else:
            digests += [_pair_digest(*pair) for pair in zip(*columns, strict=True)]
    return digests


def _pair_digest(first: str, second: str) -> bytes:
    start = first.encode()
    # The length in front keeps ("ab", "c") apart from ("a", "bc").
    return hashlib.sha256(b"%d:%b%b" % (len(start), start, second.encode())).digest()


def _picture_digest(picture: dict) -> bytes:
    content = Path(picture["path"]).read_bytes() if picture["bytes"] is None else picture["bytes"]
    return hashlib.sha256(content).digest()


def first_occurrences(digests: Sequence[bytes]) -> np.ndarray:
    """Shape (N,): for each row the first row with the same input, itself if there is none before."""
    seen: dict[bytes, int] = {}
    return np.fromiter((seen.setdefault(d, i) for i, d in enumerate(digests)), np.int64, len(digests))


def first_sources(rows: Dataset, *, by_content: bool = True) -> np.ndarray:
    """Shape (N,): for each row the first one with the same input, or of the same row of the data, as stored copies are.

    Args:
        rows: canonical rows of one split, copies behind their originals.
        by_content: False: the same row of the data alone, for pictures of which no file is left, but pixels.
    """
    numbers: list[int] = rows["row"][:]
    digests = [b"%d" % number for number in numbers]
    if by_content:
        # A few at a time: of drawn rows a table is a copy, pictures and all.
        digests = [d for part in rows.with_format("arrow").iter(ROWS_AT_ONCE) for d in row_digests(part)]
    known: dict[int, bytes] = {}
    return first_occurrences([known.setdefault(n, digest) for n, digest in zip(numbers, digests, strict=True)])


def superfluous(
    digests: Sequence[bytes], *, scored: Collection[bytes], before: Sequence[bytes] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Rows without a label that are not to be trained on.

    Args:
        digests: of the rows, see `row_digests`.
        scored: of validation and test rows.
        before: of rows that are trained on already.

    Returns:
        Masks (N,): rows whose exact input is scored; and of the others those that repeat one of `before` or an earlier one.
    """
    scored_N = np.fromiter((digest in scored for digest in digests), bool, len(digests))
    first_N = first_occurrences([*before, *digests])[len(before) :]
    return scored_N, ~scored_N & (first_N != len(before) + np.arange(len(digests)))


def carve(labels_N: np.ndarray, first_N: np.ndarray, *, fraction: float, seed: tuple[int, int]) -> np.ndarray:
    """Choose rows to set aside, each class by its share, repeated inputs all on one side.

    Every class keeps at least one row, so a class of a single row is never carved. A row whose input also occurs with
    another label stays where it is.

    Args:
        labels_N: class of each row.
        first_N: see `first_occurrences`.
        fraction: of the distinct inputs, above 0 and below 1; at least one is carved.

    Returns:
        Mask (N,), true for the carved rows.

    Raises:
        InputError: when no class has two different rows.
    """
    rows = np.arange(len(labels_N))
    movable = first_N == rows
    movable[first_N[labels_N != labels_N[first_N]]] = False
    candidates = rows[movable]
    counts_C = np.bincount(labels_N[candidates], minlength=int(labels_N.max()) + 1)
    most_C = np.maximum(counts_C - 1, 0)
    if most_C.sum() == 0:
        raise InputError(f"{len(rows)} rows are too few to set some aside; a class needs two different ones")
    wanted = min(max(1, round(fraction * int(counts_C.sum()))), int(most_C.sum()))
    carved = np.zeros(len(rows), dtype=bool)
    carved[_draw(candidates, labels_N, _shares(counts_C, wanted, most_C), seed)] = True
    return carved[first_N]


def subsample(labels_N: np.ndarray, *, count: int, seed: tuple[int, int]) -> np.ndarray:
    """Choose `count` rows, each class by its share but at least one row of each that has any.

    Returns:
        Mask (N,), true for the chosen rows.

    Raises:
        InputError: when there are more classes than that.
    """
    counts_C = np.bincount(labels_N)
    there_C = np.minimum(counts_C, 1)
    if count < there_C.sum():
        raise InputError(
            f"data.max_train_rows {count}: expected one row at least for each of the {there_C.sum()} classes"
        )
    take_C = np.maximum(_shares(counts_C, min(count, len(labels_N)), counts_C), there_C)
    while take_C.sum() > min(count, len(labels_N)):
        take_C[take_C.argmax()] -= 1
    chosen = np.zeros(len(labels_N), dtype=bool)
    chosen[_draw(np.arange(len(labels_N)), labels_N, take_C, seed)] = True
    return chosen


def at_most_per_class(labels_N: np.ndarray, *, count: int, seed: tuple[int, int]) -> np.ndarray:
    """Choose `count` rows of each class, or all where it has fewer; fewer of one seed are among more of it.

    Returns:
        Mask (N,), true for the chosen rows.
    """
    chosen = np.zeros(len(labels_N), dtype=bool)
    chosen[_draw(np.arange(len(labels_N)), labels_N, np.minimum(np.bincount(labels_N), count), seed)] = True
    return chosen


def _shares(counts_C: np.ndarray, total: int, most_C: np.ndarray) -> np.ndarray:
    """Divide `total` in proportion to the counts, none above its most, by the largest remainders."""
    exact_C = counts_C * (total / max(1, counts_C.sum()))
    shares_C = np.minimum(np.floor(exact_C).astype(np.int64), most_C)
    by_remainder = np.argsort(shares_C - exact_C, kind="stable")
    while (left := total - int(shares_C.sum())) > 0:
        open_classes = by_remainder[shares_C[by_remainder] < most_C[by_remainder]]
        shares_C[open_classes[:left]] += 1
    return shares_C


def _draw(rows: np.ndarray, labels_N: np.ndarray, take_C: np.ndarray, seed: tuple[int, int]) -> np.ndarray:
    shuffled = np.random.default_rng(seed).permutation(rows)
    by_class = shuffled[np.argsort(labels_N[shuffled], kind="stable")]
    starts_C = np.searchsorted(labels_N[by_class], np.arange(len(take_C)))
    return np.concatenate([by_class[s : s + n] for s, n in zip(starts_C, take_C, strict=True)])


def fingerprint(labels: Sequence[str], splits: Mapping[str, tuple[Sequence[bytes], np.ndarray]]) -> str:
    """SHA-256 over class names and, split by split, every row's input digest and class: the same on every machine."""
    total = hashlib.sha256(json.dumps(list(labels)).encode())
    for name, (digests, labels_N) in splits.items():
        total.update(f"{name} {len(digests)}".encode())
        total.update(b"".join(digests))
        total.update(np.ascontiguousarray(labels_N, dtype="<i8").tobytes())
    return total.hexdigest()
