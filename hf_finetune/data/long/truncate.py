"""Read the beginning of a long text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hf_finetune.data.long.base import LongTexts, Texts
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@configclass
class Truncate(LongTexts):
    """Read the first `max_length` tokens."""

    def check(self, tokenizer: PreTrainedTokenizerBase, max_length: int, name: str) -> None:
        """Accept any tokenizer."""

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, texts: Texts, max_length: int, **options: Any
    ) -> Mapping[str, list]:
        """Tokenize texts, or pairs of texts, without their ends."""
        from hf_finetune.data.tokens import beginnings
        from hf_finetune.utils.panics import tokenize

        rows = texts.rows
        return tokenize(
            tokenizer,
            beginnings(tokenizer, texts.texts, max_length, rows=rows),
            None if texts.pairs is None else beginnings(tokenizer, texts.pairs, max_length, rows=rows),
            name=tokenizer.name_or_path,
            rows=rows,
            **{"truncation": True, "max_length": max_length, "return_attention_mask": False, **options},
        )

    def mark(self) -> None:
        """Return None: plain libraries truncate, too."""
