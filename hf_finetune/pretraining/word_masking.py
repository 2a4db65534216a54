"""Masking of words and spans of words (BERT, arXiv:1810.04805; SpanBERT, arXiv:1907.10529).

Legend: B rows, T tokens, M tokens to predict.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from hf_finetune.data.inputs import Rows, TextInputs
from hf_finetune.data.text_pieces import UNSPACED
from hf_finetune.data.tokens import pad
from hf_finetune.errors import InputError
from hf_finetune.pretraining.masked_rows import MaskedRows
from hf_finetune.pretraining.objectives.base import IGNORED

WORDS = "words"
"""Column of encoded rows: the word number of each token, from 0, and -1 for special tokens."""
# Shares of the tokens to predict that are masked and replaced (BERT, arXiv:1810.04805, appendix A.1).
MASKED, REPLACED = 0.8, 0.1
# Parameter of the lengths of spans (SpanBERT, arXiv:1907.10529, section 3.1).
GEOMETRIC = 0.2
# A word of more tokens is masked as a whole only if it does not exceed the share: addresses, hashes, and other texts
# that a tokenizer does not split into words.
LONGEST_WORD = 8
UNSPACED_CHARACTER = re.compile(f"[{UNSPACED}]")


def with_words(encoded: Dataset, inputs: TextInputs, *, whole_word: bool) -> Dataset:
    """Add the column `WORDS` to encoded rows.

    Args:
        whole_word: number the words that the tokenizer splits at spaces and punctuation, and single tokens in scripts
            without spaces, see `word_keys`; else number all tokens. Special tokens are never words, even if a text
            contains them.

    Raises:
        InputError: the tokenizer does not report the words of its tokens.
    """
    tokenizer = inputs.tokenizer
    if whole_word and not tokenizer.is_fast:
        raise InputError(
            f"pretrain.objective.whole_word: expected false here, got True: {type(tokenizer).__name__} does not report "
            "which tokens make a word"
        )
    special = frozenset(tokenizer.all_special_ids)

    def add_words(batch: dict[str, list]) -> dict[str, list]:
        if whole_word:
            encoded_batch: Any = inputs.encode_batch(batch)
            texts = zip(*(batch[name] for name in ("text", "text_pair") if name in batch), strict=True)
            rows = zip(encoded_batch.encodings, texts, strict=True)
            keys = [word_keys(encoding, row_texts, special) for encoding, row_texts in rows]
        else:
            keys = [[None if token in special else i for i, token in enumerate(ids)] for ids in batch["input_ids"]]
        return {WORDS: [number_words(row) for row in keys]}

    return encoded.map(add_words, batched=True, load_from_cache_file=False)


def rows_with_words(encoded: Dataset, inputs: TextInputs, *, whole_word: bool) -> Dataset:
    """Return the encoded rows that have a word to predict, with the column `WORDS`."""
    rows = with_words(encoded, inputs, whole_word=whole_word)
    return rows.select([i for i, words in enumerate(rows[WORDS][:]) if max(words) >= 0])


def word_keys(encoding: Any, texts: Sequence[str], special: Collection[int]) -> list[Any]:
    """Return a key for each token that differs between neighboring words; None for tokens of no word.

    To a tokenizer that splits at spaces a Chinese sentence is one word. So a token with a character of a script without
    spaces is a word of its own, together with other tokens of the same character, such as its bytes.

    Args:
        encoding: from `tokenizers`.
        texts: the text or the pair of texts; word numbers start again in the second.
        special: tokens of no word.
    """
    tokens = zip(encoding.ids, encoding.sequence_ids, encoding.word_ids, encoding.offsets, strict=True)
    return [
        None
        if word is None or token in special
        else (part, word, start if UNSPACED_CHARACTER.search(texts[part], start, end) else None)
        for token, part, word, (start, end) in tokens
    ]


def number_words(keys: Sequence[Any]) -> list[int]:
    """Number the keys of words from 0, neighbors with the same key alike; -1 for None."""
    numbers, count, previous = [], -1, None
    for key in keys:
        count += key is not None and key != previous
        numbers.append(-1 if key is None else count)
        previous = key
    return numbers


def draw_spans(words_T: np.ndarray, rng: np.random.Generator, *, share: float, span: int = 1) -> np.ndarray:
    """Draw the tokens to predict: whole words in random order, up to `round(share * tokens)` tokens, at least one.

    The first word is drawn even if it has more tokens, unless it also has more than `LONGEST_WORD`: such a word counts
    as words of one token.

    Args:
        words_T: the column `WORDS`; at least one word.
        rng: generator of the row.
        span: maximum length of a span of words, see `span_lengths`.

    Returns:
        Shape (T,), the number of each token's span, -1 for tokens that are not predicted.
    """
    budget, drawn = max(1, round(share * int((words_T >= 0).sum()))), 0
    words_T = split_long_words(words_T, longest=max(budget, LONGEST_WORD))
    tokens_of = np.bincount(words_T[words_T >= 0])
    words = len(tokens_of)
    spans = np.full(words, -1)
    lengths = span_lengths(span, words, rng) if span > 1 else np.ones(words, dtype=int)
    for number, (start, length) in enumerate(zip(rng.permutation(words).tolist(), lengths.tolist(), strict=True)):
        for word in range(start, min(start + length, words)):
            if spans[word] < 0 and (drawn == 0 or drawn + tokens_of[word] <= budget):
                spans[word], drawn = number, drawn + int(tokens_of[word])
        if drawn >= budget:
            break
    # Tokens of no word index the last word here.
    return np.where(words_T >= 0, spans[words_T], -1)


def span_lengths(longest: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the lengths of spans in words, from SpanBERT's truncated geometric distribution (p 0.2).

    Its mean is 3.8 words up to 10 words (arXiv:1907.10529, figure 2).

    Returns:
        Shape (count,), from 1 to `longest`.
    """
    weights = (1 - GEOMETRIC) ** np.arange(longest)
    return 1 + rng.choice(longest, count, p=weights / weights.sum())


def split_long_words(words_T: np.ndarray, *, longest: int) -> np.ndarray:
    """Return the column `WORDS` with each token of a word of more than `longest` tokens as a word of its own."""
    is_token_T = words_T >= 0
    too_long = np.bincount(words_T[is_token_T]) > longest
    begins_T = is_token_T & ((np.diff(words_T, prepend=-1) != 0) | too_long[words_T])
    return np.where(is_token_T, begins_T.cumsum() - 1, -1)


@dataclass(frozen=True)
class Masking:
    """Masks the tokens to predict."""

    share: float
    span: int
    mask: int
    """The mask token."""
    others: np.ndarray
    """Tokens to replace with: all but the special ones."""
    seed: int

    @staticmethod
    def of(tokenizer: Any, *, embeddings: int, share: float, span: int, seed: int) -> Masking:
        """Build it with a tokenizer's tokens.

        Args:
            embeddings: number of the model's token embeddings, which may be fewer than the tokenizer's tokens.

        Raises:
            InputError: the tokenizer has no mask token, or the model no embedding of it.
        """
        if tokenizer.mask_token_id is None:
            raise InputError(
                "pretrain.objective: MaskedLanguage needs a mask token, and this tokenizer has none; name it in "
                "tokenizer_config.json, or use SimCSE"
            )
        if tokenizer.mask_token_id >= embeddings:
            raise InputError(
                f"pretrain.objective: MaskedLanguage needs a mask token, and the model has embeddings for {embeddings} "
                f"tokens, not for this tokenizer's {tokenizer.mask_token} ({tokenizer.mask_token_id}); use SimCSE"
            )
        others = np.setdiff1d(np.arange(min(len(tokenizer), embeddings)), tokenizer.all_special_ids)
        return Masking(share, span, tokenizer.mask_token_id, others, seed)

    def __call__(
        self, ids_T: np.ndarray, words_T: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the masked tokens (T,), and labels (T,): the original token where it is predicted, else `IGNORED`.

        Whether a token is masked, replaced or left unchanged is drawn token by token, as in BERT; with spans, span by
        span, as in SpanBERT (arXiv:1907.10529, section 3.1).
        """
        spans_T = draw_spans(words_T, rng, share=self.share, span=self.span)
        is_predicted_T = spans_T >= 0
        ids_M = ids_T[is_predicted_T]
        group_M = spans_T[is_predicted_T] if self.span > 1 else np.arange(len(ids_M))
        draw_M = rng.random(group_M.max() + 1)[group_M]
        other_M = rng.choice(self.others, len(ids_M))
        masked_M = np.where(draw_M < MASKED, self.mask, np.where(draw_M < MASKED + REPLACED, other_M, ids_M))
        masked_T, labels_T = ids_T.copy(), np.full_like(ids_T, IGNORED)
        masked_T[is_predicted_T], labels_T[is_predicted_T] = masked_M, ids_M
        return masked_T, labels_T


def masked_texts(encoded: Dataset, inputs: TextInputs, masking: Masking) -> MaskedRows:
    """Return rows with the column `WORDS` as masked tokens with `labels`."""

    def mask(batch: dict[str, Any], rngs: list[np.random.Generator]) -> dict[str, Any]:
        words = batch.pop(WORDS)
        pairs = [masking(*row) for row in zip(batch["input_ids"], words, rngs, strict=True)]
        return {**batch, "input_ids": [ids for ids, _ in pairs], "labels": [labels for _, labels in pairs]}

    return MaskedRows(Rows(encoded, [*inputs.columns, WORDS]), mask, masking.seed)


def collate_texts(inputs: TextInputs, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Collate `masked_texts`: the model's inputs, and `labels` (B, T)."""
    left = inputs.tokenizer.padding_side == "left"
    labels_BT = pad({"labels": batch["labels"]}, {"labels": IGNORED}, left=left)["labels"]
    return {**inputs.collate(batch), "labels": labels_BT}
