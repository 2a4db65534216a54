"""How many texts are cut off at the maximum length, and what each way to read more of them costs.

Legend: N lengths of texts.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hf_finetune.data.long.base import LongTexts, Reader
from hf_finetune.data.long.config import TRUNCATE
from hf_finetune.data.tokens import LONG_TEXT, count_tokens

COVERAGE = 0.99
"""Share of the texts that a proposed length holds."""
CHARACTERS_COUNTED = 5_000_000
"""Characters of cut-off texts that are tokenized as a whole, to count their tokens."""


@dataclass(frozen=True)
class Truncation:
    """Texts that are cut off."""

    max_length: int
    """Longest text in tokens that is read as a whole."""
    share: float
    """Of the texts."""
    length: int
    """Tokens that hold `holds` of the texts: 99% of them, or as many as the model can read."""
    holds: float
    cost: float
    """Tokens of all texts at `length`, relative to those at `max_length`; time grows at least as much."""
    setting: str = ""
    """Flag with which texts of `length` tokens are read as a whole."""
    has_other_ways: bool = True
    """Whether `--long` could read more: the beginnings of single texts are read, and nothing else."""

    @property
    def proposal(self) -> str:
        """What a longer maximum length would hold and cost, for messages."""
        if self.length <= self.max_length:
            enough = f"{self.max_length} tokens hold {1 - self.share:.1%} of them"
            return (
                f"{self.max_length} tokens are the most that this checkpoint reads" if self.holds < COVERAGE else enough
            )
        return f"{self.setting} would hold {self.holds:.1%} of them, at {self.cost:.1f} times the tokens"

    @property
    def alternative(self) -> str:
        """Other ways to read long texts, the end of a message."""
        return (
            "; --long head-tail, sliding or chunk reads more of them (`plan` has the costs)"
            if self.has_other_ways
            else ""
        )


@dataclass(frozen=True)
class WholeLengths:
    """The lengths of texts before anything is cut off, some of which stand for several."""

    tokens_N: np.ndarray
    """Tokens, special ones included."""
    weights_N: np.ndarray
    """Number of texts that each length stands for."""

    def longer(self, length: int) -> float:
        """Return the share of the texts that are longer."""
        return float(self.weights_N[self.tokens_N > length].sum() / self.weights_N.sum())

    def total(self, long: LongTexts, most: int, reader: Reader) -> float:
        """Return the tokens that are computed of all texts, if `most` of each are read."""
        return float((self.weights_N * long.tokens(self.tokens_N, most, reader)).sum())

    def holding(self, coverage: float) -> int:
        """Return the length that this share of the texts does not exceed."""
        order = np.argsort(self.tokens_N, kind="stable")
        enough = np.searchsorted(np.cumsum(self.weights_N[order]), coverage * self.weights_N.sum() - 1e-9)
        return int(self.tokens_N[order][enough])


def whole_lengths(
    tokenizer: PreTrainedTokenizerBase, encoded: Dataset, long: LongTexts, reader: Reader, *, sample: int = 2000
) -> WholeLengths:
    """Estimate the lengths of whole texts: of cut-off ones from at most `sample` of them.

    Args:
        encoded: rows, see `TextInputs.encode`.
        long: how long texts were read.
    """
    read_N = np.asarray(encoded["length"][:], np.int64)
    is_full_N = read_N >= long.windows * reader.max_length
    full, known = np.flatnonzero(is_full_N), long.text_lengths(read_N[~is_full_N], reader)
    if len(full) == 0:
        return WholeLengths(known, np.ones(len(known)))
    batch = encoded.select(full[:sample]).to_dict()
    characters = np.cumsum([min(len(text), LONG_TEXT) for text in batch["text"]])
    count = max(1, int(np.searchsorted(characters, CHARACTERS_COUNTED, side="right")))
    pairs = batch.get("text_pair")
    counted = count_tokens(tokenizer, batch["text"][:count], None if pairs is None else pairs[:count])
    # These stand for all texts of full length.
    weights = np.concatenate([np.ones(len(known)), np.full(len(counted), len(full) / len(counted))])
    return WholeLengths(np.concatenate([known, counted]), weights)


def truncation(
    lengths: WholeLengths, long: LongTexts, reader: Reader, *, limit: int | None = None, pairs: bool = False
) -> Truncation:
    """Return how many texts are cut off, and the length that would hold nearly all.

    Args:
        long: how long texts are read.
        limit: the most tokens that the model reads at once. None: unlimited.
        pairs: whether they are pairs of texts.
    """
    most = long.capacity(reader)
    if (share := lengths.longer(most)) == 0:
        return Truncation(most, 0.0, most, 1.0, 1.0)
    limit = limit if long.windows == 1 and limit else sys.maxsize
    length = max(most, min(lengths.holding(COVERAGE), limit))
    cost = lengths.total(long, length, reader) / lengths.total(long, most, reader)
    has_other_ways = long == TRUNCATE and not pairs
    return Truncation(
        most, share, length, 1 - lengths.longer(length), cost, long.setting(length, reader), has_other_ways
    )


@dataclass(frozen=True)
class Way:
    """A way to read the texts."""

    flags: str
    cut_off: float
    """Share of the texts of which it does not read everything."""
    tokens: float
    """Mean number of tokens of a text that are computed."""
    cost: float
    """Tokens relative to those of the present way."""


def ways(
    lengths: WholeLengths, present: LongTexts, reader: Reader, others: Sequence[LongTexts], *, limit: int | None = None
) -> list[Way]:
    """Return the present way to read the texts, the others, and truncation at a length that holds nearly all texts.

    Args:
        limit: see `truncation`.
    """
    longer = min(lengths.holding(COVERAGE), limit or sys.maxsize)
    read: list[tuple[str, LongTexts, Reader]] = [(f"--long {long.name}", long, reader) for long in (present, *others)]
    if longer > reader.max_length:
        read.append((TRUNCATE.setting(longer, reader), TRUNCATE, Reader(longer, reader.special)))
    rows, now = lengths.weights_N.sum(), lengths.total(present, present.capacity(reader), reader)
    totals = [lengths.total(long, long.capacity(each), each) for _, long, each in read]
    return [
        Way(name, lengths.longer(long.capacity(each)), total / rows, total / now)
        for (name, long, each), total in zip(read, totals, strict=True)
    ]
