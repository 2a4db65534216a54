"""Rows of which a part is left out, to be guessed: other words and patches in every epoch, drawn from (seed, row, epoch).

The library's collators draw from one generator, in the order in which batches are made: a resumed run, or another number of
processes, would leave out other words.

Legend: B rows, T tokens, P patches, H and W patches of a picture's height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from hf_finetune.data.augmentation import generators
from hf_finetune.data.inputs import EpochRows, Inputs, Rows, TextInputs
from hf_finetune.data.tokens import pad
from hf_finetune.errors import InputError

NOT_ASKED = -100
"""Label of a token that is not to be guessed."""
WORDS = "words"
"""Column of encoded rows: for each token the number of its word, counted from 0, -1 for special tokens."""
# Of the tokens that are to be guessed (BERT, arXiv:1810.04805, appendix A.1); the rest stays as it is.
MASKED, EXCHANGED = 0.8, 0.1
# Of SpanBERT's lengths (arXiv:1907.10529).
GEOMETRIC = 0.2


def with_words(encoded: Dataset, inputs: TextInputs, *, whole_word: bool) -> Dataset:
    """Encoded rows with the column `WORDS`.

    Args:
        whole_word: the words of the tokenizer's own first cut (at spaces and punctuation); else every token is one.

    Raises:
        InputError: the tokenizer does not tell which tokens make a word.
    """
    tokenizer = inputs.tokenizer
    if whole_word and not tokenizer.is_fast:
        raise InputError(
            f"pretrain.objective.whole_word: expected false here, got True: {type(tokenizer).__name__} does not tell which "
            "tokens make a word"
        )

    def number(batch: dict[str, list]) -> dict[str, list]:
        if not whole_word:
            special = set(tokenizer.all_special_ids)
            return {
                WORDS: [
                    numbered([None if i in special else k for k, i in enumerate(ids)]) for ids in batch["input_ids"]
                ]
            }
        again: Any = inputs.encode_batch(batch)
        # A pair counts the words of its second text from 0 again.
        parts = [
            zip(again.sequence_ids(row), again.word_ids(row), strict=True) for row in range(len(again["input_ids"]))
        ]
        return {WORDS: [numbered([None if word is None else (part, word) for part, word in row]) for row in parts]}

    return encoded.map(number, batched=True, load_from_cache_file=False)


def numbered(words: Sequence[Any]) -> list[int]:
    """Numbers from 0 for what is not None, the same for neighbours that are equal, and -1 for None."""
    numbers, count, before = [], -1, None
    for word in words:
        count += word is not None and word != before
        numbers.append(-1 if word is None else count)
        before = word
    return numbers


def places(words_T: np.ndarray, rng: np.random.Generator, *, share: float, span: int = 1) -> np.ndarray:
    """Which tokens are to be guessed: whole words in random order, as long as they are no more than `share` of the tokens.

    That is `round(share * tokens)`, at least one; the first word is taken whatever its length.

    Args:
        words_T: see `WORDS`; one word at least.
        rng: of the row.
        span: longest run of words, see `pretraining_choices.MaskedLanguage`.

    Returns:
        Mask (T,).
    """
    tokens_of = np.bincount(words_T[words_T >= 0])
    words, wanted, taken = len(tokens_of), max(1, round(share * int(tokens_of.sum()))), 0
    chosen = np.zeros(words, dtype=bool)
    lengths = np.minimum(rng.geometric(GEOMETRIC, words), span) if span > 1 else np.ones(words, dtype=int)
    for start, length in zip(rng.permutation(words).tolist(), lengths.tolist(), strict=True):
        for word in range(start, min(start + length, words)):
            if not chosen[word] and (taken == 0 or taken + tokens_of[word] <= wanted):
                chosen[word], taken = True, taken + int(tokens_of[word])
        if taken >= wanted:
            break
    # -1 reads the last word's entry; such tokens are left out by the first condition.
    return (words_T >= 0) & chosen[words_T]


@dataclass(frozen=True)
class Masking:
    """What stands in the place of tokens that are to be guessed."""

    share: float
    span: int
    mask: int
    """The mask token."""
    others: np.ndarray
    """Tokens that are exchanged for: all but the special ones."""
    seed: int

    @staticmethod
    def of(tokenizer: Any, *, share: float, span: int, seed: int) -> Masking:
        """With a tokenizer's tokens.

        Raises:
            InputError: it has no mask token.
        """
        if tokenizer.mask_token_id is None:
            raise InputError(
                "pretrain.objective: MaskedLanguage needs a mask token, which this tokenizer has not; name it in "
                "tokenizer_config.json, or use SimCSE"
            )
        others = np.setdiff1d(np.arange(len(tokenizer)), tokenizer.all_special_ids)
        return Masking(share, span, tokenizer.mask_token_id, others, seed)

    def __call__(
        self, ids_T: np.ndarray, words_T: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (T,) as the model reads them, and labels (T,): the token where it is to be guessed, else `NOT_ASKED`."""
        asked_T = places(words_T, rng, share=self.share, span=self.span)
        ids_M = ids_T[asked_T]
        draw_M, other_M = rng.random(len(ids_M)), rng.choice(self.others, len(ids_M))
        shown_M = np.where(draw_M < MASKED, self.mask, np.where(draw_M < MASKED + EXCHANGED, other_M, ids_M))
        shown_T, labels_T = ids_T.copy(), np.full_like(ids_T, NOT_ASKED)
        shown_T[asked_T], labels_T[asked_T] = shown_M, ids_M
        return shown_T, labels_T


class MaskedRows(EpochRows):
    """Rows with a part of each left out, by the epoch.

    Args:
        rows: the rows whole.
        leave_out: `(batch, a generator for each row) -> batch`.
        seed: of the run.
    """

    def __init__(
        self, rows: Rows, leave_out: Callable[[dict[str, Any], list[np.random.Generator]], dict[str, Any]], seed: int
    ) -> None:
        self.rows, self.leave_out, self.seed = rows, leave_out, seed

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        return self.leave_out(self.rows.__getitems__(indices), generators(self.seed, indices, self.epoch))


def masked_texts(encoded: Dataset, inputs: TextInputs, masking: Masking) -> MaskedRows:
    """Rows that `with_words` has seen, with `labels` beside their tokens."""

    def leave_out(batch: dict[str, Any], rngs: list[np.random.Generator]) -> dict[str, Any]:
        words = batch.pop(WORDS)
        pairs = [masking(*row) for row in zip(batch["input_ids"], words, rngs, strict=True)]
        return {**batch, "input_ids": [ids for ids, _ in pairs], "labels": [labels for _, labels in pairs]}

    return MaskedRows(Rows(encoded, [*inputs.columns, WORDS]), leave_out, masking.seed)


def masked_pictures(
    encoded: Dataset, inputs: Inputs, *, grid: tuple[int, int], block: int, share: float, seed: int
) -> MaskedRows:
    """Pictures, with the patches that are left out as `bool_masked_pos` (B, P).

    Args:
        grid: H, W.
        block, share: see `blocks`.
    """

    def leave_out(batch: dict[str, Any], rngs: list[np.random.Generator]) -> dict[str, Any]:
        masks = [blocks(grid, rng, block=block, share=share).ravel() for rng in rngs]
        return {**batch, "bool_masked_pos": torch.from_numpy(np.stack(masks))}

    return MaskedRows(Rows(encoded, inputs.columns), leave_out, seed)


def blocks(grid: tuple[int, int], rng: np.random.Generator, *, block: int, share: float) -> np.ndarray:
    """Patches that are left out of a picture: squares of `block` x `block`, `round(share * squares)` of them but at least one.

    Args:
        grid: H, W. Squares at the right and lower edge are cut off where these are no multiples of `block`.

    Returns:
        Mask (H, W).
    """
    height, width = (-(-side // block) for side in grid)
    chosen = np.zeros(height * width, dtype=bool)
    chosen[rng.permutation(len(chosen))[: max(1, round(share * len(chosen)))]] = True
    squares = chosen.reshape(height, width).repeat(block, 0).repeat(block, 1)
    return squares[: grid[0], : grid[1]]


def collate_texts(inputs: TextInputs, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """A batch of `masked_texts`: the model's inputs, and `labels` (B, T)."""
    left = inputs.tokenizer.padding_side == "left"
    labels_BT = pad({"labels": batch["labels"]}, {"labels": NOT_ASKED}, left=left)["labels"]
    return {**inputs.collate(batch), "labels": labels_BT}


def collate_pictures(inputs: Inputs, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """A batch of `masked_pictures`."""
    return {**collate_counted(inputs, batch), "bool_masked_pos": batch["bool_masked_pos"]}


def collate_counted(inputs: Inputs, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The model's inputs, and a label of 0 for each row, by which the trainer counts them."""
    tensors = inputs.collate(batch)
    return {**tensors, "labels": torch.zeros(len(next(iter(tensors.values()))), dtype=torch.long)}
