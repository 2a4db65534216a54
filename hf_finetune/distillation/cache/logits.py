"""Logits, and embeddings, in the disk cache: computed chunk by chunk, and read where they lie.

Up to `MANY` classes the logits themselves are cached, in float32. Of more classes the `TOP` likeliest of each row, as
logarithms of their probabilities in float16, and the probability that is left, which counts as spread evenly over the
other classes: no probability is then off by more than 5e-4 for the rounding, and the likeliest class stays the
likeliest. A loss that compares every logit by itself (`needs_all_logits`) has all of them cached. A run that computes
the logits uses them as they are cached, so that the next one trains the same.

Legend: N rows, n rows of a chunk, B rows of a batch, C classes, K = `TOP`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any, Protocol

import numpy as np

from hf_finetune.distillation.cache.chunks import cached_chunks, chunks_of
from hf_finetune.errors import InputError
from hf_finetune.evaluation.metrics import softmax
from hf_finetune.utils.disk_cache import CacheUnavailable

logger = logging.getLogger("hf_finetune.run")

# 500 classes of a million rows in float32 are 2 GB; 64 likeliest of them with their numbers are 0.26 GB.
MANY, TOP = 512, 64


class Logits(Protocol):
    """Logits of N rows, which need not be in memory together."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        """Return the logits (B, C), float32, of the rows of these numbers (B,)."""


@dataclass(frozen=True)
class CachedLogits:
    """Logits in chunks, memory-mapped where they lie on the disk."""

    chunks: Sequence[np.ndarray]
    """As `pack` gives them, one after another."""
    classes: int
    """Of the chunks."""
    columns_C: tuple[int, ...]
    """Which of these classes are read, in this order."""

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
        logits_BC = np.empty((len(rows), len(self.columns_C)), dtype=np.float32)
        for chunk in np.unique(chunk_B):
            is_here_B = chunk_B == chunk
            packed = self.chunks[chunk][rows[is_here_B] - self.starts[chunk]]
            logits_BC[is_here_B] = unpack(packed, self.classes)[:, list(self.columns_C)]
        return logits_BC


def cached_logits(
    key: Mapping[str, Any],
    rows: int,
    compute: Callable[[np.ndarray], np.ndarray],
    *,
    classes: int,
    size: int,
    name: str,
    budget_gb: float,
    whole: bool = False,
) -> tuple[CachedLogits, bool]:
    """Return logits where an earlier run left them, else computed and cached.

    Args:
        key: what they depend on, as JSON has it.
        rows: N.
        compute: `numbers of rows (n,) -> logits (n, C)`.
        classes: C, of all that are computed.
        size: rows of a chunk; what a killed run may lose.
        name: of the rows, for the log.
        budget_gb: gigabytes (10^9 bytes) that all caches may take on the disk.
        whole: cache all logits of many classes, and not the likeliest alone.

    Returns:
        The logits, of all classes in their order, and whether all were cached.
    """
    # Of few classes it is the same either way, and one cache.
    key = {**key, "size": size} | ({"whole": True} if whole and classes > MANY else {})
    encode = partial(np.asarray, dtype=np.float32) if whole else pack
    chunks, record = chunks_of(rows, size), encode(np.zeros((1, classes), dtype=np.float32))
    shapes = [(len(numbers), *record.shape[1:]) for numbers in chunks]
    # Once, also where the disk is full in the end.
    compute_chunk = cache(lambda i: encode(compute(chunks[i])))
    title = f"the teacher's predictions of {rows} {name} rows"
    try:
        arrays, cached = cached_chunks(key, shapes, record.dtype, compute_chunk, name=title, budget_gb=budget_gb)
    except CacheUnavailable as reason:
        logger.warning("the teacher's predictions are not cached for a later run: %s", reason)
        arrays, cached = [compute_chunk(i) for i in range(len(chunks))], False
    return CachedLogits(arrays, classes, tuple(range(classes))), cached


def check_finite(logits_nC: np.ndarray, numbers: np.ndarray, teacher: str, split: str) -> np.ndarray:
    """Return logits of the rows of these numbers as they are.

    Raises:
        InputError: one is no number, or infinite: nothing could be learned from it, and it would be cached.
    """
    if not np.isfinite(logits_nC).all():
        first = int(np.flatnonzero(~np.isfinite(logits_nC).all(axis=1))[0])
        values = ", ".join(f"{v:.3g}" for v in logits_nC[first][:5])
        raise InputError(
            f"objective.teacher: {teacher}: its prediction of row {numbers[first] + 1} of {split} is not finite "
            f"({values}); its weights may be damaged, expected another teacher"
        )
    return logits_nC


def pack(logits_nC: np.ndarray) -> np.ndarray:
    """Return logits as they are cached: themselves, float32 (n, C); or of more than `MANY` classes records (n,) of
    `log_p`, float16 (K + 1,), the likeliest first and what is left last, and `classes` (K,)."""
    logits_nC = np.asarray(logits_nC, dtype=np.float32)
    classes = logits_nC.shape[1]
    if classes <= MANY:
        return logits_nC
    order_nC = np.argsort(-logits_nC, axis=1, kind="stable")
    p_nC = np.take_along_axis(softmax(logits_nC), order_nC, axis=1)
    record = [("log_p", np.float16, (TOP + 1,)), ("classes", np.min_scalar_type(classes), (TOP,))]
    packed_n = np.empty(len(logits_nC), record)
    p_nK = np.concatenate([p_nC[:, :TOP], p_nC[:, TOP:].sum(axis=1, keepdims=True)], axis=1)
    log_p_nK = np.log(np.maximum(p_nK, np.finfo(np.float64).tiny)).astype(np.float16)
    # Rounded, the second could be as likely as the first, which is the predicted class.
    log_p_nK[:, 1:TOP] = np.minimum(log_p_nK[:, 1:TOP], np.nextafter(log_p_nK[:, :1], np.float16(-np.inf)))
    packed_n["log_p"], packed_n["classes"] = log_p_nK, order_nC[:, :TOP]
    return packed_n


def unpack(packed_n: np.ndarray, classes: int) -> np.ndarray:
    """Return the logits (n, C), float32, of what `pack` gave."""
    if packed_n.dtype.names is None:
        return packed_n
    log_p_nK = packed_n["log_p"].astype(np.float32)
    # Of nearly uniform predictions the likeliest may have been rounded below the mean of the rest: it stays the
    # likeliest.
    below_n1 = np.nextafter(log_p_nK[:, :1], np.float32(-np.inf))
    rest_n1 = np.minimum(log_p_nK[:, TOP:] - np.log(np.float32(classes - TOP)), below_n1)
    logits_nC = np.repeat(rest_n1, classes, axis=1)
    np.put_along_axis(logits_nC, packed_n["classes"].astype(np.int64), log_p_nK[:, :TOP], axis=1)
    return logits_nC
