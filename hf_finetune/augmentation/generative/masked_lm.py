"""Words of texts exchanged for those that a masked language model finds likely in their place.

Legend: B texts, T tokens, M masked words of a batch, V tokens of the model's vocabulary, K those drawn from.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from tqdm import tqdm

from hf_finetune.augmentation.generative.base import MANY, CheckpointName, GenerativeOperation, Load
from hf_finetune.augmentation.generative.sources import Source
from hf_finetune.augmentation.operations import Rng, TextBatch
from hf_finetune.data.text_pieces import words_of
from hf_finetune.errors import InputError
from hf_finetune.utils.config import Probability, between, configclass

if TYPE_CHECKING:
    import torch

    from hf_finetune.augmentation.generative.checkpoints import LanguageModel, Vocabulary

# Letters, perhaps with apostrophes and hyphens inside, in quotes or brackets and before punctuation.
WORD = re.compile(r"""(["'“‘«(\[{¿¡*-]*)([^\W\d_]+(?:['’-][^\W\d_]+)*)(\W*)""")
# Logits of a pass take this much memory at most, or one text's.
LOGIT_BYTES = 500_000_000


@configclass
class SubstituteByModel(GenerativeOperation):
    """Exchange words for others that a masked language model finds likely in their place (arXiv:1805.06201).

    Words of letters alone are exchanged, whole, for whole words of the model's vocabulary that are not the same word;
    numbers, @names, #tags and addresses stay. The new word need not mean the same: a negation or the word that decides
    the class may go, so keep p low.
    """

    checkpoint: CheckpointName
    """Hub id or folder of a checkpoint with a trained masked-language-model head, such as
    distilbert/distilroberta-base."""
    p: Probability = 0.15
    """Share of the words; at least one where it is above 0."""
    top_k: Annotated[int, between(1, MANY)] = 20
    """How many of the likeliest words are drawn from."""
    temperature: Annotated[float, between(0, 100)] = 1.0
    """Below 1 the likelier ones are drawn more often. 0: always the likeliest."""
    max_length: Annotated[int, between(4, MANY)] = 256
    """Tokens of a text that the model reads, or fewer where it has fewer positions; words behind stay."""
    batch_size: Annotated[int, between(1, MANY)] = 32
    """Texts of a pass at most; fewer where the vocabulary is large."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""

    @property
    def sources(self) -> tuple[Source, ...]:
        """The masked language model."""
        return (Source(self.checkpoint, self.revision, "masked words"),)

    def __call__(self, batch: TextBatch, rng: Rng) -> TextBatch:
        """Texts of as many words; one of fewer than two stays itself. See `GenerativeOperation`."""
        return batch if self.p == 0 else super().__call__(batch, rng)

    def rewrite(self, texts: Sequence[str], seeds: Sequence[int], load: Load) -> list[str]:
        """See `GenerativeOperation`."""
        rngs = map(np.random.default_rng, seeds)
        opened = [open_words(text, self.p, rng) for text, rng in zip(texts, rngs, strict=True)]
        if not any(text.places for text in opened):
            return list(texts)
        return fill(opened, load(self.sources[0]), self)


@dataclass(frozen=True)
class Opened:
    """A text of which some words are to be filled in anew."""

    pieces: tuple[str, ...]
    """Words, and what is around them; together they are the text."""
    places: tuple[int, ...] = ()
    """Which pieces are left open."""
    draws: tuple[float, ...] = ()
    """A random number from 0 to 1 for each."""

    def text(self, mask: str) -> str:
        """The text with `mask` in place of the open words."""
        open_places = set(self.places)
        return "".join(mask if i in open_places else piece for i, piece in enumerate(self.pieces))


def open_words(text: str, p: float, rng: np.random.Generator) -> Opened:
    """Leave a share `p` of the text's words open, one at least; none of a text of fewer than two words.

    Words with combining marks stay: they are no letters to `WORD`.
    """
    pieces: list[str] = []
    words: list[int] = []
    parts, gaps = words_of(text)
    for gap, part in zip(gaps, parts, strict=False):
        match = WORD.fullmatch(part)
        pieces.append(gap)
        if match is None or _is_mark(match[3][:1]):
            pieces.append(part)
        else:
            words.append(len(pieces) + 1)
            pieces += match.groups()
    pieces.append(gaps[-1])
    if p == 0 or not words or len(parts) < 2:
        return Opened((text,))
    count = max(1, round(p * len(words)))
    places = sorted(rng.choice(words, count, replace=False).tolist())
    return Opened(tuple(pieces), tuple(places), tuple(rng.random(count).tolist()))


def _is_mark(character: str) -> bool:
    """Whether it is written onto the letter before it, as accents of Unicode's NFD and vowels of Devanagari are."""
    return character != "" and unicodedata.category(character).startswith("M")


def fill(opened: Sequence[Opened], masked: LanguageModel, operation: SubstituteByModel) -> list[str]:
    """The texts with words of the model's choice in the open places, in batches of like length.

    A word that lies behind `max_length` tokens stays, and so does a text in which the mask token itself is written.

    Raises:
        InputError: the vocabulary has no whole words.
    """
    tokenizer, texts = masked.tokenizer, ["".join(text.pieces) for text in opened]
    vocabulary = masked.vocabulary
    if len(vocabulary.tokens) < 2:
        raise InputError(
            f"{masked.name}: its vocabulary has no whole words to put in; use a bert or roberta checkpoint"
        )
    todo = [i for i, text in enumerate(opened) if text.places and tokenizer.mask_token not in texts[i]]
    todo.sort(key=lambda i: -len(texts[i]))
    length, size = min(operation.max_length, masked.positions), masked.model.config.vocab_size
    with tqdm(total=len(todo), desc="masked words", unit="text", leave=False, dynamic_ncols=True, disable=None) as bar:
        while todo:
            # The first one is the longest, and has hardly more tokens than characters.
            longest = min(length, len(texts[todo[0]]) + 2)
            at_once = min(operation.batch_size, max(1, LOGIT_BYTES // (4 * longest * size)))
            rows, todo = todo[:at_once], todo[at_once:]
            logits = _logits([opened[i].text(tokenizer.mask_token) for i in rows], masked, length)
            for i, logits_MV in zip(rows, logits, strict=True):
                texts[i] = _filled(opened[i], logits_MV, vocabulary, operation)
            bar.update(len(rows))
    return texts


def _logits(texts: list[str], masked: LanguageModel, length: int) -> list[torch.Tensor]:
    """Logits (M, V) of each text's masked words that are within `length` tokens."""
    import torch

    tokenizer = masked.tokenizer
    encoded = tokenizer(texts, truncation=True, max_length=length, padding=True, return_tensors="pt")
    with torch.inference_mode():
        logits_BTV = masked.model(**encoded.to(masked.device)).logits
        is_mask_BT = encoded["input_ids"] == tokenizer.mask_token_id
        return [logits_TV[is_mask_T].float().cpu() for logits_TV, is_mask_T in zip(logits_BTV, is_mask_BT, strict=True)]


def _filled(opened: Opened, logits_MV: torch.Tensor, vocabulary: Vocabulary, operation: SubstituteByModel) -> str:
    import torch

    pieces, tokens = list(opened.pieces), torch.tensor(list(vocabulary.words))
    allowed_V = torch.full(logits_MV.shape[1:], -torch.inf)
    allowed_V[tokens] = 0.0
    # Masks that were cut off are the last ones.
    for place, draw, logits_V in zip(opened.places, opened.draws, logits_MV, strict=False):
        old = pieces[place]
        scores_V = logits_V + allowed_V
        scores_V[vocabulary.tokens.get(old.casefold(), [])] = -torch.inf
        token = draw_token(scores_V, draw, top_k=operation.top_k, temperature=operation.temperature)
        pieces[place] = _cased(vocabulary.words[token], old)
    return "".join(pieces)


def draw_token(scores_V: torch.Tensor, draw: float, *, top_k: int, temperature: float) -> int:
    """One of the `top_k` best tokens by their softmax; `draw`, from 0 to 1, says where among them, the best first."""
    import torch

    best = scores_V.topk(min(top_k, int(scores_V.isfinite().sum())))
    if temperature == 0:
        return int(best.indices[0])
    shares_K = torch.softmax(best.values.double() / temperature, 0).cumsum(0)
    return int(best.indices[min(int(torch.searchsorted(shares_K, draw, right=True)), len(shares_K) - 1)])


def _cased(word: str, like: str) -> str:
    if len(like) > 1 and like.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if like[:1].isupper() else word
