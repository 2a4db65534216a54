"""The choice of a way to read long texts, by measurement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hf_finetune.data.long.base import LongTexts, Texts
from hf_finetune.utils.config import Count, configclass

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@configclass
class Auto(LongTexts):
    """Choose between the ways by a head that is fitted to frozen features of each: see `pipeline.choose_long`."""

    rows: Count = 1000
    """Training rows that heads are fitted to, and validation rows that judge them, at most."""

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, texts: Texts, max_length: int, **options: Any
    ) -> Mapping[str, list]:
        """Never called: a way is chosen before rows are encoded."""
        raise AssertionError("a way is chosen before rows are encoded")
