"""Answers, and embeddings, in a store on the disk, a chunk of rows at a time: read where they lie, and found again by a run
that was killed.

Up to `MANY` classes the logits themselves are kept, in float32. Of more classes the `TOP` likeliest of each row, as logarithms
of their probabilities in float16, and the probability that is left, which counts as spread evenly over the other classes: no
probability is then off by more than 5e-4 for the rounding, and the likeliest class stays the likeliest. Who compares every
logit by itself (`MatchLogits`) has all of them kept. A run that computes the answers uses them as they are kept, so that the
next one trains the same.

Legend: N rows, n rows of a chunk, B rows that are asked for, C classes, K = `TOP`.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hf_finetune.evaluation.metrics import softmax
from hf_finetune.utils import disk_cache
from hf_finetune.utils.files import write_bytes

logger = logging.getLogger("hf_finetune.run")

# Raised whenever the same rows come to be answered otherwise, or answers to be kept otherwise.
FORMAT = 2
# 500 classes of a million rows in float32 are 2 GB; 64 likeliest of them with their numbers are 0.26 GB.
MANY, TOP = 512, 64


class Logits(Protocol):
    """Logits of N rows, which need not be in memory together."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        """Shape (B, C), float32, of the rows of these numbers (B,)."""


@dataclass(frozen=True)
class Kept:
    """Logits in chunks, memory-mapped where they lie on the disk."""

    chunks: Sequence[np.ndarray]
    """As `packed` gives them, one after another."""
    classes: int
    """Of the chunks."""
    columns_C: tuple[int, ...]
    """Which of these classes are asked for, in this order."""

    @cached_property
    def starts(self) -> np.ndarray:
        """First row of each chunk, and N."""
        return np.cumsum([0, *map(len, self.chunks)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        """See `Logits`."""
        rows = np.asarray(rows)
        chunk_B = np.searchsorted(self.starts, rows, side="right") - 1
        found_BC = np.empty((len(rows), len(self.columns_C)), dtype=np.float32)
        for chunk in np.unique(chunk_B):
            mine = chunk_B == chunk
            part = self.chunks[chunk][rows[mine] - self.starts[chunk]]
            found_BC[mine] = unpacked(part, self.classes)[:, list(self.columns_C)]
        return found_BC


def keep(
    parts: Mapping[str, Any],
    rows: int,
    answer: Callable[[np.ndarray], np.ndarray],
    *,
    numbers: int,
    likeliest: bool = True,
    size: int,
    budget_gb: float,
    name: str,
) -> tuple[list[np.ndarray], bool]:
    """Answers where an earlier run left them, else computed chunk by chunk and kept, each chunk as soon as it is there.

    Args:
        parts: what the answers depend on, as JSON has it.
        rows: N.
        answer: `places of rows (n,) -> logits (n, C)`.
        numbers: C, of each answer.
        likeliest: keep the likeliest of many alone. False: all are kept, as these are no logits, or each is asked for.
        size: rows of a chunk; what a killed run may lose.
        budget_gb: gigabytes (10^9 bytes) that all stores may take on the disk.
        name: of the rows, for the log.

    Returns:
        The chunks as `packed` gives them, and whether all were found whole.
    """
    # Of few classes it is the same either way, and one store.
    all_of_many = {} if likeliest or numbers <= MANY else {"whole": True}
    folder = disk_cache.folder_of("teacher", {"format": FORMAT, "size": size, **all_of_many, **parts})
    places = [np.arange(start, min(start + size, rows)) for start in range(0, rows, size)]
    pack = packed if likeliest else partial(np.asarray, dtype=np.float32)
    made: dict[int, np.ndarray] = {}

    def make(chunk: int) -> np.ndarray:
        made[chunk] = pack(answer(places[chunk]))
        return made[chunk]

    try:
        found, there = found_or_made(
            folder,
            [len(chunk) for chunk in places],
            pack(np.zeros((1, numbers), dtype=np.float32)),
            make,
            budget_gb=budget_gb,
            about={"rows": rows, "numbers": numbers},
        )
    except disk_cache.NoStore as reason:
        logger.warning("the teacher's answers are not kept for a later run: %s", reason)
        return [made[i] if i in made else make(i) for i in range(len(places))], False
    if there == len(places):
        logger.info("the teacher's answers to %d %s rows: found in %s", rows, name, folder)
    elif there:
        logger.info("%d of %d parts of the answers were there, of a run that was stopped", there, len(places))
    return found, there == len(places)


def found_or_made(
    folder: Path,
    heights: Sequence[int],
    one: np.ndarray,
    make: Callable[[int], np.ndarray],
    *,
    budget_gb: float,
    about: Mapping[str, Any],
) -> tuple[list[np.ndarray], int]:
    """Chunks where an earlier run left them, else made and kept, each as soon as it is there.

    Args:
        folder: see `utils.disk_cache.folder_of`.
        heights: of each chunk, its first dimension.
        one: of that dimension 1, in all else as a chunk is kept.
        make: the chunk of a number.
        budget_gb: gigabytes (10^9 bytes) that all stores may take on the disk.
        about: what the manifest says.

    Returns:
        The chunks, mapped where they lie, and how many of them were there.

    Raises:
        NoStore: see `utils.disk_cache.growing`.
    """

    def read(folder: Path, _: dict[str, Any]) -> list[np.ndarray]:
        return [_read(folder, i, height, one) for i, height in enumerate(heights)]

    there = len(heights)
    if (found := disk_cache.find(folder, read)) is None:
        with disk_cache.growing(folder, needed=sum(heights) * one.nbytes, budget_gb=budget_gb, about=about) as part:
            for i, height in enumerate(heights):
                try:
                    _read(part, i, height, one)
                except (OSError, ValueError):
                    there -= 1
                    write_bytes(part / _file(i), _content(make(i)))
        if (found := disk_cache.find(folder, read)) is None:
            raise disk_cache.NoStore(f"{folder} was damaged as soon as it was written")
    disk_cache.hold(folder)
    return found, there


def _file(chunk: int) -> str:
    return f"{chunk:05d}.npy"


def _content(packed_n: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, packed_n, allow_pickle=False)
    return content.getvalue()


def _read(folder: Path, chunk: int, rows: int, one: np.ndarray) -> np.ndarray:
    """A chunk, mapped.

    Args:
        one: a row as it is kept, shape (1, ...).

    Raises:
        OSError: there is none.
        ValueError: it is another.
    """
    found = np.load(folder / _file(chunk), mmap_mode="r", allow_pickle=False)
    if found.dtype != one.dtype or found.shape != (rows, *one.shape[1:]):
        raise ValueError(f"{_file(chunk)} has the shape {found.shape}, not {(rows, *one.shape[1:])}")
    return found


def packed(logits_nC: np.ndarray) -> np.ndarray:
    """Logits as they are kept: themselves, float32 (n, C); or of more than `MANY` classes records (n,) of `log_p`, float16
    (K + 1,), the likeliest first and what is left last, and `classes` (K,)."""
    logits_nC = np.asarray(logits_nC, dtype=np.float32)
    classes = logits_nC.shape[1]
    if classes <= MANY:
        return logits_nC
    order_nC = np.argsort(-logits_nC, axis=1, kind="stable")
    p_nC = np.take_along_axis(softmax(logits_nC), order_nC, axis=1)
    kept_n = np.empty(
        len(logits_nC), [("log_p", np.float16, (TOP + 1,)), ("classes", np.min_scalar_type(classes), (TOP,))]
    )
    p_nK = np.concatenate([p_nC[:, :TOP], p_nC[:, TOP:].sum(axis=1, keepdims=True)], axis=1)
    log_p_nK = np.log(np.maximum(p_nK, np.finfo(np.float64).tiny)).astype(np.float16)
    # Rounded, the second could be as likely as the first, which is the answer.
    log_p_nK[:, 1:TOP] = np.minimum(log_p_nK[:, 1:TOP], np.nextafter(log_p_nK[:, :1], np.float16(-np.inf)))
    kept_n["log_p"], kept_n["classes"] = log_p_nK, order_nC[:, :TOP]
    return kept_n


def unpacked(kept_n: np.ndarray, classes: int) -> np.ndarray:
    """Logits (n, C), float32, of what `packed` gave."""
    if kept_n.dtype.names is None:
        return kept_n
    log_p_nK = kept_n["log_p"].astype(np.float32)
    # Of nearly uniform answers the likeliest may have been rounded below the mean of the rest: it stays the likeliest.
    below_n1 = np.nextafter(log_p_nK[:, :1], np.float32(-np.inf))
    rest_n1 = np.minimum(log_p_nK[:, TOP:] - np.log(np.float32(classes - TOP)), below_n1)
    logits_nC = np.repeat(rest_n1, classes, axis=1)
    np.put_along_axis(logits_nC, kept_n["classes"].astype(np.int64), log_p_nK[:, :TOP], axis=1)
    return logits_nC
