"""Read a long text in windows that overlap.

Legend: N texts, B rows of a batch, K windows of the longest of them, W windows of all its rows, C classes or features.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np

from hf_finetune.data.long.base import LongTexts, Reader, Texts
from hf_finetune.errors import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


Weights: TypeAlias = Literal["tokens", "equal"]
"""How much each window of a text counts."""


class Windowed(LongTexts):
    """Reads the first windows of a text: each has `max_length` tokens but the last one, and special tokens of its own.

    In encoded rows the windows of a text follow one another.
    """

    stride: int
    """Tokens that neighboring windows share, as the tokenizers of transformers call it."""
    weights: Weights
    """How much each window counts. The last one may have a few tokens only."""
    limit: ClassVar[str]
    """Name of the field with the largest number of windows."""

    @property
    @abstractmethod
    def windows(self) -> int: ...

    def check(self, tokenizer: PreTrainedTokenizerBase, max_length: int, name: str) -> None:
        """Refuse a tokenizer that does not report windows, or windows that are mostly the same."""
        super().check(tokenizer, max_length, name)
        if not tokenizer.is_fast:
            kind = type(tokenizer).__name__
            raise InputError(f"data.long: expected truncate with {name}: {kind} does not divide texts into windows")
        if 2 * self.stride > max_length:
            most = max_length // 2
            raise InputError(f"data.long.stride: expected at most half of data.max_length, {most}, got {self.stride}")

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, texts: Texts, max_length: int, **options: Any
    ) -> Mapping[str, list]:
        """Tokenize texts to the tokens of their windows, one after the other."""
        from hf_finetune.data.tokens import beginnings
        from hf_finetune.utils.panics import tokenize

        # Longer than the windows together.
        most = max_length * self.windows
        encoded = tokenize(
            tokenizer,
            beginnings(tokenizer, texts.texts, most, rows=texts.rows),
            name=tokenizer.name_or_path,
            rows=texts.rows,
            truncation=True,
            max_length=max_length,
            stride=self.stride,
            return_overflowing_tokens=True,
            return_attention_mask=False,
            **options,
        )
        columns = dict(encoded.items())
        first = np.searchsorted(columns.pop("overflow_to_sample_mapping"), np.arange(len(texts.texts) + 1))
        ends = np.minimum(first[1:], first[:-1] + self.windows)
        parts = list(zip(first[:-1].tolist(), ends.tolist(), strict=True))
        return {
            name: [list(chain.from_iterable(column[start:end])) for start, end in parts]
            for name, column in columns.items()
        }

    def tokens(self, lengths_N: np.ndarray, most: int, reader: Reader) -> np.ndarray:
        """Return the tokens of all windows of texts of these lengths, if `most` of each are read; shape (N,)."""
        read_N = np.minimum(lengths_N, most)
        return read_N + (self._needed(read_N, reader) - 1) * (self.stride + reader.special)

    def text_lengths(self, tokens_N: np.ndarray, reader: Reader) -> np.ndarray:
        """Return the lengths of whole texts whose windows have so many tokens, shape (N,)."""
        windows_N = -(-tokens_N // reader.max_length)
        return tokens_N - (windows_N - 1) * (self.stride + reader.special)

    def capacity(self, reader: Reader) -> int:
        """Return the tokens of the longest text that is read as a whole, special tokens included."""
        return reader.max_length + (self.windows - 1) * (reader.words - self.stride)

    def plain_settings(self, max_length: int) -> dict[str, Any]:
        """Return the arguments of `hub.plain_loading.windows`."""
        return {"stride": self.stride, "most": self.windows, "by_tokens": self.weights == "tokens"}

    def setting(self, length: int, reader: Reader) -> str:
        """Return the flag with which texts of this length are read as a whole."""
        return f"--data.long.{self.limit.replace('_', '-')} {self._needed(np.array([length]), reader)[0]}"

    def _needed(self, lengths_N: np.ndarray, reader: Reader) -> np.ndarray:
        """Return the number of windows that hold texts of these lengths, shape (N,)."""
        beyond_N = np.maximum(lengths_N - reader.max_length, 0)
        return 1 - (-beyond_N // (reader.words - self.stride))


def split_windows(
    columns: Mapping[str, Sequence[Any]], max_length: int, weights: Weights
) -> tuple[dict[str, list[Any]], torch.Tensor]:
    """Split encoded rows into their windows, and return these with the share of each in its row: (B, K), else 0."""
    import torch

    rows = next(iter(columns.values()))
    starts = [range(0, max(1, len(ids)), max_length) for ids in rows]
    windows = {
        name: [ids[start : start + max_length] for ids, begun in zip(column, starts, strict=True) for start in begun]
        for name, column in columns.items()
    }
    weights_BK = torch.zeros(len(rows), max(map(len, starts)))
    for row, (ids, begun) in enumerate(zip(rows, starts, strict=True)):
        tokens = [max(1, min(max_length, len(ids) - start)) for start in begun]
        weights_BK[row, : len(begun)] = torch.tensor(tokens) if weights == "tokens" else 1
    return windows, weights_BK / weights_BK.sum(1, keepdim=True)


def mean_of_windows(values_WC: torch.Tensor, shares_BK: torch.Tensor) -> torch.Tensor:
    """Return the mean over the windows of each row by their shares, shape (B, C), in float32.

    Args:
        values_WC: of all windows, those of a row one after the other.
        shares_BK: see `split_windows`.
    """
    shared_WC = values_WC.float() * shares_BK[shares_BK > 0][:, None]
    rows_W = (shares_BK > 0).nonzero()[:, 0]
    return shared_WC.new_zeros(len(shares_BK), values_WC.shape[1]).index_add(0, rows_W, shared_WC)
