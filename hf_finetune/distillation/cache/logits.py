"""A teacher's logits, or embeddings, in the disk cache: computed chunk by chunk, and memory-mapped.

With up to `MANY` classes the logits themselves are cached, in float32. With more, the `TOP` most likely classes of each
row are: the logarithms of their probabilities in float16, and the probability of all others, which counts as spread
evenly over them. Rounding changes no probability by more than 5e-4, and the predicted class stays the same. All logits
are cached for a loss that compares each of them (`needs_all_logits`). The run that computes them reads them from the
cache, too, so that the next run trains the same.

Legend: N rows, n rows of a chunk, B rows of a batch, C classes, K = `TOP`.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any, Protocol

import numpy as np

from hf_finetune.data.ragged import places_of
from hf_finetune.distillation.cache.chunks import ChunkCache, chunks_of
from hf_finetune.errors import InputError
from hf_finetune.evaluation.logits import non_finite_row
from hf_finetune.evaluation.metrics import softmax
from hf_finetune.utils.disk_cache import CacheUnavailable
from hf_finetune.utils.messages import row_place

logger = logging.getLogger("hf_finetune.run")

# 500 classes of a million rows in float32 are 2 GB; the 64 most likely of them with their indices are 0.26 GB.
MANY, TOP = 512, 64


class Logits(Protocol):
    """Logits of N rows, which need not be in memory together."""

    def __len__(self) -> int:
        """Return N."""

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        """Return the logits (B, C), float32, of the rows of these numbers (B,)."""


@dataclass(frozen=True)
class WordLogits:
    """Logits of words, read by the encoded rows that score them."""

    words: Logits
    """Of all words, in order."""
    counts_N: np.ndarray
    """Number of words of each encoded row."""

    def __len__(self) -> int:
        return len(self.counts_N)

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        """Return the logits (W, C), float32, of the words of the rows of these numbers (B,)."""
        return self.words[places_of(np.asarray(rows), self.counts_N)]


@dataclass(frozen=True)
class CachedLogits:
    """Logits in memory-mapped chunks of rows."""

    chunks: Sequence[np.ndarray]
    """Arrays from `pack`, in order."""
    classes: int
    """Classes of the chunks."""
    columns_C: tuple[int, ...]
    """Indices of the classes to read, in order."""

    @cached_property
    def starts(self) -> np.ndarray:
        """First row of each chunk, and N."""
        return np.cumsum([0, *map(len, self.chunks)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        """Return the logits (B, C), float32, of the rows of these numbers (B,)."""
        rows = np.asarray(rows)
        chunk_B = np.searchsorted(self.starts, rows, side="right") - 1
        logits_BC = np.empty((len(rows), len(self.columns_C)), dtype=np.float32)
        for chunk in np.unique(chunk_B):
            is_here_B = chunk_B == chunk
            packed = self.chunks[chunk][rows[is_here_B] - self.starts[chunk]]
            logits_BC[is_here_B] = unpack(packed, self.classes)[:, list(self.columns_C)]
        return logits_BC


@dataclass(frozen=True)
class LogitCache:
    """The logits of a teacher in the disk cache."""

    teacher: str
    """Name of the teacher, for messages."""
    classes: int
    """Number of its classes, C."""
    size: int
    """Rows of a chunk, at most so many of which a killed run loses."""
    columns_C: tuple[int, ...]
    """Indices of the classes to read, in order."""
    all_logits: bool = False
    """Whether all logits are cached also with many classes."""

    def load(
        self,
        key: Mapping[str, Any],
        rows: int,
        compute: Callable[[np.ndarray], np.ndarray],
        *,
        split: str,
        budget_gb: float,
    ) -> tuple[CachedLogits, bool]:
        """Return the logits, and whether all were cached; compute and cache those that were not.

        Args:
            key: what they depend on, as JSON values.
            rows: N.
            compute: `row numbers (n,) -> logits (n, C)` of all classes.
            split: name of the rows, for messages.
            budget_gb: gigabytes (10^9 bytes) that all caches may take on the disk.

        Raises:
            InputError: a logit is not finite.
        """
        # With few classes all logits are cached either way, under one key.
        key = {**key, "size": self.size} | ({"whole": True} if self.all_logits and self.classes > MANY else {})
        encode = partial(np.asarray, dtype=np.float32) if self.all_logits else pack
        chunks, record = chunks_of(rows, self.size), encode(np.zeros((1, self.classes), dtype=np.float32))
        shapes = [(len(numbers), *record.shape[1:]) for numbers in chunks]
        # Also in memory, so that no chunk is computed twice if the disk is full in the end.
        compute_chunk = cache(lambda i: encode(self._check_finite(compute(chunks[i]), chunks[i], split)))
        store = ChunkCache(key, shapes, record.dtype, f"the teacher's predictions of {rows} {split} rows")
        try:
            arrays, cached = store.load(compute_chunk, budget_gb=budget_gb)
        except CacheUnavailable as reason:
            logger.warning("the teacher's predictions are not cached for a later run: %s", reason)
            arrays, cached = [compute_chunk(i) for i in range(len(chunks))], False
        return CachedLogits(arrays, self.classes, self.columns_C), cached

    def _check_finite(self, logits_nC: np.ndarray, numbers: np.ndarray, split: str) -> np.ndarray:
        """Return the logits, or refuse a row whose logits are not finite: nothing could be learned from it."""
        if row := non_finite_row(logits_nC):
            index, values = row
            raise InputError(
                f"objective.teacher: {self.teacher}: its prediction of {row_place(numbers[index])} of {split} is not "
                f"finite ({values}); its weights may be damaged, expected another teacher"
            )
        return logits_nC


def pack(logits_nC: np.ndarray) -> np.ndarray:
    """Return what is cached of logits.

    Returns:
        With up to `MANY` classes the logits (n, C), float32; with more, records (n,) of `log_p` (K + 1,), float16, the
        most likely class first and the rest last, and `classes` (K,).
    """
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
    # After rounding the second class could be as likely as the first, the predicted one.
    log_p_nK[:, 1:TOP] = np.minimum(log_p_nK[:, 1:TOP], np.nextafter(log_p_nK[:, :1], np.float16(-np.inf)))
    packed_n["log_p"], packed_n["classes"] = log_p_nK, order_nC[:, :TOP]
    return packed_n


def unpack(packed_n: np.ndarray, classes: int) -> np.ndarray:
    """Return the logits (n, C), float32, of an array from `pack`."""
    if packed_n.dtype.names is None:
        return packed_n
    log_p_nK = packed_n["log_p"].astype(np.float32)
    # In a nearly uniform prediction rounding may have put the most likely class below the mean of the rest.
    below_n1 = np.nextafter(log_p_nK[:, :1], np.float32(-np.inf))
    rest_n1 = np.minimum(log_p_nK[:, TOP:] - np.log(np.float32(classes - TOP)), below_n1)
    logits_nC = np.repeat(rest_n1, classes, axis=1)
    np.put_along_axis(logits_nC, packed_n["classes"].astype(np.int64), log_p_nK[:, :TOP], axis=1)
    return logits_nC
