"""Read the beginning and the end of a long text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hf_finetune.data.long.base import LongTexts, Texts
from hf_finetune.utils.config import OpenFraction, configclass

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@configclass
class HeadTail(LongTexts):
    """Read the first and the last tokens of a long text, `max_length` together (arXiv:1905.05583, section 5.3.1)."""

    head: OpenFraction = 0.25
    """Share of the tokens that are read from the beginning, as in the paper. The others are from the end."""

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, texts: Texts, max_length: int, **options: Any
    ) -> Mapping[str, list]:
        """Tokenize texts without their middle. The special tokens at both ends stay."""
        from hf_finetune.data.tokens import both_ends
        from hf_finetune.utils.panics import tokenize

        encoded = tokenize(
            tokenizer,
            both_ends(texts.texts, max_length),
            name=tokenizer.name_or_path,
            rows=texts.rows,
            **{"return_attention_mask": False, "verbose": False, **options},
        )
        head = self.first_tokens(max_length)
        return {
            name: [ids if len(ids) <= max_length else ids[:head] + ids[head - max_length :] for ids in column]
            for name, column in encoded.items()
        }

    def first_tokens(self, max_length: int) -> int:
        """Return the number of tokens from the beginning, its special tokens included."""
        return min(max(1, round(self.head * max_length)), max_length - 1)

    def plain_settings(self, max_length: int) -> dict[str, int]:
        """Return the arguments of `hub.plain_loading.head_and_tail`."""
        return {"head": self.first_tokens(max_length)}
