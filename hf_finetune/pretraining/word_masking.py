"""Words and runs of words that are left out of texts, to be predicted (BERT, arXiv:1810.04805; SpanBERT,
arXiv:1907.10529).

Legend: B rows, T tokens, M tokens to be predicted.
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
"""Column of encoded rows: for each token the number of its word, counted from 0, -1 for special tokens."""
# Of the tokens that are to be predicted (BERT, arXiv:1810.04805, appendix A.1); the rest stays as it is.
MASKED, EXCHANGED = 0.8, 0.1
# Of SpanBERT's lengths (arXiv:1907.10529, section 3.1).
GEOMETRIC = 0.2
# A longer word than this is left out whole only where it is no more than the share: addresses, hashes, and whatever
# else a tokenizer does not cut.
LONGEST_WORD = 8
OF_NO_WORD = re.compile(f"[{UNSPACED}]")


def with_words(encoded: Dataset, inputs: TextInputs, *, whole_word: bool) -> Dataset:
    """Encoded rows with the column `WORDS`.

    Args:
        whole_word: the words of the tokenizer's own first cut (at spaces and punctuation), but in scripts that put no
            spaces between words every token, see `words_of`; else every token is one. Special tokens are of no word,
            also where they are written in a text.

    Raises:
        InputError: the tokenizer does not tell which tokens make a word.
    """
    tokenizer = inputs.tokenizer
    if whole_word and not tokenizer.is_fast:
        raise InputError(
            f"pretrain.objective.whole_word: expected false here, got True: {type(tokenizer).__name__} does not tell "
            "which tokens make a word"
        )

    special = frozenset(tokenizer.all_special_ids)

    def number(batch: dict[str, list]) -> dict[str, list]:
        if not whole_word:
            return {
                WORDS: [
                    numbered([None if i in special else k for k, i in enumerate(ids)]) for ids in batch["input_ids"]
                ]
            }
        again: Any = inputs.encode_batch(batch)
        texts = zip(*(batch[name] for name in ("text", "text_pair") if name in batch), strict=True)
        rows = zip(again.encodings, texts, strict=True)
        return {WORDS: [numbered(words_of(encoding, parts, special)) for encoding, parts in rows]}

    return encoded.map(number, batched=True, load_from_cache_file=False)


def rows_with_words(encoded: Dataset, inputs: TextInputs, *, whole_word: bool) -> Dataset:
    """Encoded rows that have a word to be predicted, see `with_words`."""
    numbered_rows = with_words(encoded, inputs, whole_word=whole_word)
    return numbered_rows.select([i for i, row in enumerate(numbered_rows[WORDS][:]) if max(row) >= 0])


def words_of(encoding: Any, texts: Sequence[str], special: Collection[int]) -> list[Any]:
    """What tells the word of each token from its neighbors'; None: it is of none.

    A sentence of Chinese is one word to a tokenizer that cuts at spaces alone. So where a token has a character of a
    script that puts none between words, it is one by itself, together with those of the same character (of bytes, for
    example).

    Args:
        encoding: of `tokenizers`.
        texts: of the row, one or a pair. The second one's words are counted from 0 again.
        special: tokens that are of no word.
    """
    tokens = zip(encoding.ids, encoding.sequence_ids, encoding.word_ids, encoding.offsets, strict=True)
    return [
        None
        if word is None or token in special
        else (part, word, start if OF_NO_WORD.search(texts[part], start, end) else None)
        for token, part, word, (start, end) in tokens
    ]


def numbered(words: Sequence[Any]) -> list[int]:
    """Numbers from 0 for what is not None, the same for neighbors that are equal, and -1 for None."""
    numbers, count, before = [], -1, None
    for word in words:
        count += word is not None and word != before
        numbers.append(-1 if word is None else count)
        before = word
    return numbers


def places(words_T: np.ndarray, rng: np.random.Generator, *, share: float, span: int = 1) -> np.ndarray:
    """Which tokens are to be predicted: whole words in random order, as long as they are no more than `share` of the
    tokens.

    That is `round(share * tokens)`, at least one. The first word is taken even if it has more: a long word of a short
    text goes whole. One that has more than that and than `LONGEST_WORD` tokens counts as so many words of one.

    Args:
        words_T: see `WORDS`; one word at least.
        rng: of the row.
        span: longest run of words, see `span_lengths`.

    Returns:
        Shape (T,), the number of the run in which a token is left out, -1 where it stays.
    """
    wanted, taken = max(1, round(share * int((words_T >= 0).sum()))), 0
    words_T = without_long_words(words_T, longest=max(wanted, LONGEST_WORD))
    tokens_of = np.bincount(words_T[words_T >= 0])
    words = len(tokens_of)
    runs = np.full(words, -1)
    lengths = span_lengths(span, words, rng) if span > 1 else np.ones(words, dtype=int)
    for run, (start, length) in enumerate(zip(rng.permutation(words).tolist(), lengths.tolist(), strict=True)):
        for word in range(start, min(start + length, words)):
            if runs[word] < 0 and (taken == 0 or taken + tokens_of[word] <= wanted):
                runs[word], taken = run, taken + int(tokens_of[word])
        if taken >= wanted:
            break
    # -1 reads the last word's entry; such tokens stay.
    return np.where(words_T >= 0, runs[words_T], -1)


def span_lengths(longest: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Lengths of runs of words, from a geometric distribution (p 0.2) of which what is longer is cut off, as SpanBERT
    has it.

    Its mean is 3.8 words where 10 is the longest (arXiv:1907.10529, figure 2).

    Returns:
        Shape (count,), from 1 to `longest`.
    """
    weights = (1 - GEOMETRIC) ** np.arange(longest)
    return 1 + rng.choice(longest, count, p=weights / weights.sum())


def without_long_words(words_T: np.ndarray, *, longest: int) -> np.ndarray:
    """Numbers of words, see `WORDS`, where every token of a word of more than `longest` is one by itself."""
    is_token_T = words_T >= 0
    too_long = np.bincount(words_T[is_token_T]) > longest
    begins_T = is_token_T & ((np.diff(words_T, prepend=-1) != 0) | too_long[words_T])
    return np.where(is_token_T, begins_T.cumsum() - 1, -1)


@dataclass(frozen=True)
class Masking:
    """What stands in the place of tokens that are to be predicted."""

    share: float
    span: int
    mask: int
    """The mask token."""
    others: np.ndarray
    """Tokens that are exchanged for: all but the special ones."""
    seed: int

    @staticmethod
    def of(tokenizer: Any, *, embeddings: int, share: float, span: int, seed: int) -> Masking:
        """With a tokenizer's tokens.

        Args:
            embeddings: tokens that the model has, which may be fewer where some were added to the tokenizer.

        Raises:
            InputError: there is no mask token, or the model does not have it.
        """
        if tokenizer.mask_token_id is None:
            raise InputError(
                "pretrain.objective: MaskedLanguage needs a mask token, which this tokenizer has not; name it in "
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
        """Tokens (T,) as the model reads them, and labels (T,): the token where it is to be predicted, else `IGNORED`.

        What stands there is drawn for each token, as in BERT; in runs of words for all tokens of a run at once, as in
        SpanBERT (arXiv:1907.10529, section 3.1).
        """
        runs_T = places(words_T, rng, share=self.share, span=self.span)
        asked_T = runs_T >= 0
        ids_M = ids_T[asked_T]
        drawn_with_M = runs_T[asked_T] if self.span > 1 else np.arange(len(ids_M))
        draw_M = rng.random(drawn_with_M.max() + 1)[drawn_with_M]
        other_M = rng.choice(self.others, len(ids_M))
        shown_M = np.where(draw_M < MASKED, self.mask, np.where(draw_M < MASKED + EXCHANGED, other_M, ids_M))
        shown_T, labels_T = ids_T.copy(), np.full_like(ids_T, IGNORED)
        shown_T[asked_T], labels_T[asked_T] = shown_M, ids_M
        return shown_T, labels_T


def masked_texts(encoded: Dataset, inputs: TextInputs, masking: Masking) -> MaskedRows:
    """Rows that `with_words` has seen, with `labels` beside their tokens."""

    def leave_out(batch: dict[str, Any], rngs: list[np.random.Generator]) -> dict[str, Any]:
        words = batch.pop(WORDS)
        pairs = [masking(*row) for row in zip(batch["input_ids"], words, rngs, strict=True)]
        return {**batch, "input_ids": [ids for ids, _ in pairs], "labels": [labels for _, labels in pairs]}

    return MaskedRows(Rows(encoded, [*inputs.columns, WORDS]), leave_out, masking.seed)


def collate_texts(inputs: TextInputs, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """A batch of `masked_texts`: the model's inputs, and `labels` (B, T)."""
    left = inputs.tokenizer.padding_side == "left"
    labels_BT = pad({"labels": batch["labels"]}, {"labels": IGNORED}, left=left)["labels"]
    return {**inputs.collate(batch), "labels": labels_BT}
