"""What is read of texts that are longer than the maximum length: the interface.

Legend: N texts, B rows of a batch, W windows of all its rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hf_finetune.errors import InputError
from hf_finetune.utils.config import hyphenated
from hf_finetune.utils.plain import to_plain

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Texts:
    """Texts to tokenize."""

    texts: list[str]
    pairs: list[str] | None = None
    rows: Sequence[int] | None = None
    """Numbers of their rows, from 0, for messages."""


@dataclass(frozen=True)
class Reader:
    """How many tokens are read at once."""

    max_length: int
    """Tokens of a forward pass's row, special tokens included."""
    special: int
    """Special tokens around a text."""

    @property
    def words(self) -> int:
        """Tokens of a row without the special ones."""
        return self.max_length - self.special


class LongTexts(ABC):
    """What is read of a text of more than `max_length` tokens."""

    shares: ClassVar[str | None] = None
    """Name of the input that holds the shares of each row's windows, see `windows.split_windows`. None: a row is one
    window."""

    @property
    def name(self) -> str:
        """How a user names it: head-tail."""
        return hyphenated(type(self).__name__)

    @property
    def windows(self) -> int:
        """Windows that are read of a text at most."""
        return 1

    def check(self, tokenizer: PreTrainedTokenizerBase, max_length: int, name: str) -> None:
        """Refuse a tokenizer that cannot read long texts so.

        Args:
            name: of the checkpoint, for the message.

        Raises:
            InputError: it makes more than ids and types of tokens, reports no windows, or these overlap too much.
        """
        if others := {*tokenizer.model_input_names} - {"input_ids", "token_type_ids", "attention_mask"}:
            raise InputError(
                f"data.long: expected truncate with {name}: its tokenizer makes {min(others)}, of which no part of a "
                "text can be left out"
            )

    @abstractmethod
    def encode(
        self, tokenizer: PreTrainedTokenizerBase, texts: Texts, max_length: int, **options: Any
    ) -> Mapping[str, list]:
        """Tokenize texts: a list of ids for each text, by column. Windows follow one another in it.

        Args:
            options: further ones of the tokenizer.

        Raises:
            InputError: see `utils.panics.tokenize`.
        """

    def tokens(self, lengths_N: np.ndarray, most: int, reader: Reader) -> np.ndarray:
        """Return the tokens that are computed of texts of these lengths, if `most` of each are read; shape (N,)."""
        return np.minimum(lengths_N, most)

    def text_lengths(self, tokens_N: np.ndarray, reader: Reader) -> np.ndarray:
        """Return the lengths of whole texts of which so many tokens are computed, shape (N,)."""
        return tokens_N

    def capacity(self, reader: Reader) -> int:
        """Return the tokens of the longest text that is read as a whole, special tokens included."""
        return reader.max_length

    def setting(self, length: int, reader: Reader) -> str:
        """Return the flag with which texts of this length are read as a whole."""
        return f"--max-length {length}"

    def plain_settings(self, max_length: int) -> dict[str, Any] | None:
        """Return the arguments of the function of `hub.plain_loading` that reads long texts so. None: it truncates."""
        return None

    def mark(self) -> dict[str, Any] | None:
        """Return what config.json of a trained model says about its long texts. None: they are cut off."""
        return {"type": type(self).__name__, **to_plain(self)}
