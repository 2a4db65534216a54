"""tokenizer.json of a tokenizer that transformers has in Python alone: that of ESM, a token for each letter."""

from __future__ import annotations

import re

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import EsmTokenizer


def letter_tokenizer(tokenizer: EsmTokenizer) -> Tokenizer:
    """Return what gives the same ids by the package tokenizers. Letters that it does not know are one token together.

    Args:
        tokenizer: of a model of proteins, or of another one whose tokens are letters or words.
    """
    vocabulary = tokenizer.get_vocab()
    special = [name for name in vocabulary if name in tokenizer.all_special_tokens]
    letters = sorted((name for name in vocabulary if name not in special), key=len, reverse=True)
    known = "|".join(map(re.escape, letters))
    twin = Tokenizer(models.WordLevel(vocabulary, unk_token=str(tokenizer.unk_token)))
    twin.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(known), "isolated")]
    )
    twin.add_special_tokens(special)
    start, end = str(tokenizer.cls_token), str(tokenizer.eos_token)
    twin.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        pair=f"{start} $A {end} $B {end}",
        special_tokens=[(name, vocabulary[name]) for name in (start, end)],
    )
    return twin
