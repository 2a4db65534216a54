"""Word substitution by a masked language model.

Legend: B texts, T tokens, M masked words of a text, V size of the vocabulary, K candidates.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from hf_finetune.augmentation.generative.base import MANY, CheckpointName, GenerativeOperation, Load
from hf_finetune.augmentation.generative.sources import Source
from hf_finetune.augmentation.operations import Rng, TextBatch
from hf_finetune.data.text_pieces import words_of
from hf_finetune.errors import InputError
from hf_finetune.utils.config import Probability, between, configclass
from hf_finetune.utils.console import Progress
from hf_finetune.utils.panics import tokenize

if TYPE_CHECKING:
    import torch

    from hf_finetune.augmentation.generative.checkpoints import LanguageModel, Vocabulary

# Letters with apostrophes and hyphens inside, between opening quotes or brackets and punctuation.
WORD = re.compile(r"""(["'“‘«(\[{¿¡*-]*)([^\W\d_]+(?:['’-][^\W\d_]+)*)(\W*)""")
# Memory limit of the logits of a batch of more than one text.
LOGIT_BYTES = 500_000_000


@configclass
class SubstituteByModel(GenerativeOperation):
    """Replace words by others that a masked language model predicts in their place (arXiv:1805.06201).

    Only words made of letters are replaced, by other whole words of the model's vocabulary; numbers, @names, #tags and
    addresses stay. The new word need not mean the same: a negation, or the word that decides the class, may disappear,
    so keep p low.
    """

    checkpoint: CheckpointName
    """Hub id or folder of a checkpoint with a trained masked-language-model head, such as
    distilbert/distilroberta-base."""
    p: Probability = 0.15
    """Share of the words; at least one word if above 0."""
    top_k: Annotated[int, between(1, MANY)] = 20
    """Number of most likely words to draw from."""
    temperature: Annotated[float, between(0, 100)] = 1.0
    """Temperature of the draw; lower values favor likely words. 0: always the most likely."""
    max_length: Annotated[int, between(4, MANY)] = 256
    """Tokens of a text that the model reads, up to its number of positions; later words stay."""
    batch_size: Annotated[int, between(1, MANY)] = 32
    """Largest number of texts per batch; fewer for a large vocabulary."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""

    @property
    def sources(self) -> tuple[Source, ...]:
        return (Source(self.checkpoint, self.revision, "masked words"),)

    def __call__(self, batch: TextBatch, rng: Rng) -> TextBatch:
        """Change the batch, see `GenerativeOperation`; a text of fewer than two words stays."""
        return batch if self.p == 0 else super().__call__(batch, rng)

    def rewrite(self, texts: Sequence[str], seeds: Sequence[int], load: Load) -> list[str]:
        rngs = map(np.random.default_rng, seeds)
        masked = [mask_words(text, self.p, rng) for text, rng in zip(texts, rngs, strict=True)]
        if not any(text.positions for text in masked):
            return list(texts)
        return fill_masks(masked, load(self.sources[0]), self)


@dataclass(frozen=True)
class MaskedText:
    """A text with some of its words to be predicted."""

    pieces: tuple[str, ...]
    """Words and the characters between them; joined they are the text."""
    positions: tuple[int, ...] = ()
    """Indices of the masked pieces."""
    draws: tuple[float, ...] = ()
    """A random number from [0, 1) for each."""

    def text(self, mask: str) -> str:
        """Return the text with `mask` in place of the masked words."""
        is_masked = set(self.positions)
        return "".join(mask if i in is_masked else piece for i, piece in enumerate(self.pieces))


def mask_words(text: str, p: float, rng: np.random.Generator) -> MaskedText:
    """Mask a share `p` of the text's words, at least one; none in a text of fewer than two words.

    Words with combining marks are not masked, as `WORD` does not count the marks as letters.
    """
    pieces: list[str] = []
    words: list[int] = []
    parts, gaps = words_of(text)
    for gap, part in zip(gaps, parts, strict=False):
        match = WORD.fullmatch(part)
        pieces.append(gap)
        if match is None or _is_combining_mark(match[3][:1]):
            pieces.append(part)
        else:
            words.append(len(pieces) + 1)
            pieces += match.groups()
    pieces.append(gaps[-1])
    if p == 0 or not words or len(parts) < 2:
        return MaskedText((text,))
    count = max(1, round(p * len(words)))
    positions = sorted(rng.choice(words, count, replace=False).tolist())
    return MaskedText(tuple(pieces), tuple(positions), tuple(rng.random(count).tolist()))


def _is_combining_mark(character: str) -> bool:
    """Return whether the character modifies the letter before it: accents in NFD, vowels of Devanagari."""
    return character != "" and unicodedata.category(character).startswith("M")


def fill_masks(masked: Sequence[MaskedText], language_model: LanguageModel, operation: SubstituteByModel) -> list[str]:
    """Replace the masked words by predictions of the model, in batches of similar length.

    Words past `max_length` tokens stay, and so do texts that contain the mask token literally.

    Raises:
        InputError: the vocabulary has no whole words.
    """
    tokenizer, texts = language_model.tokenizer, ["".join(text.pieces) for text in masked]
    vocabulary = language_model.vocabulary
    if len(vocabulary.tokens) < 2:
        raise InputError(
            f"{language_model.name}: its vocabulary has no whole words to put in; use a bert or roberta checkpoint"
        )
    todo = [i for i, text in enumerate(masked) if text.positions and tokenizer.mask_token not in texts[i]]
    todo.sort(key=lambda i: -len(texts[i]))
    length = min(operation.max_length, language_model.positions)
    vocab_size = language_model.model.config.vocab_size
    with Progress("predict masked words", total=len(todo), unit="text") as bar:
        while todo:
            # The first text is the longest; a text rarely has more tokens than characters.
            longest = min(length, len(texts[todo[0]]) + 2)
            batch_size = min(operation.batch_size, max(1, LOGIT_BYTES // (4 * longest * vocab_size)))
            rows, todo = todo[:batch_size], todo[batch_size:]
            logits = _mask_logits([masked[i].text(tokenizer.mask_token) for i in rows], language_model, length)
            for i, logits_MV in zip(rows, logits, strict=True):
                texts[i] = _fill(masked[i], logits_MV, vocabulary, operation)
            bar.update(len(rows))
    return texts


def _mask_logits(texts: list[str], language_model: LanguageModel, length: int) -> list[torch.Tensor]:
    """Return the logits (M, V) of each text's masked words within the first `length` tokens."""
    import torch

    tokenizer = language_model.tokenizer
    options: dict[str, Any] = {"truncation": True, "max_length": length, "padding": True, "return_tensors": "pt"}
    encoded = tokenize(tokenizer, texts, name=language_model.name, **options)
    with torch.inference_mode():
        logits_BTV = language_model.model(**encoded.to(language_model.device)).logits
        is_mask_BT = encoded["input_ids"] == tokenizer.mask_token_id
        return [logits_TV[is_mask_T].float().cpu() for logits_TV, is_mask_T in zip(logits_BTV, is_mask_BT, strict=True)]


def _fill(masked: MaskedText, logits_MV: torch.Tensor, vocabulary: Vocabulary, operation: SubstituteByModel) -> str:
    import torch

    pieces, tokens = list(masked.pieces), torch.tensor(list(vocabulary.words))
    allowed_V = torch.full(logits_MV.shape[1:], -torch.inf)
    allowed_V[tokens] = 0.0
    # Truncation drops the last masks.
    for position, draw, logits_V in zip(masked.positions, masked.draws, logits_MV, strict=False):
        old = pieces[position]
        scores_V = logits_V + allowed_V
        scores_V[vocabulary.tokens.get(old.casefold(), [])] = -torch.inf
        token = draw_token(scores_V, draw, top_k=operation.top_k, temperature=operation.temperature)
        pieces[position] = _match_case(vocabulary.words[token], old)
    return "".join(pieces)


def draw_token(scores_V: torch.Tensor, draw: float, *, top_k: int, temperature: float) -> int:
    """Sample one of the `top_k` best tokens by their softmax, at the quantile `draw` of the tokens in falling order."""
    import torch

    best = scores_V.topk(min(top_k, int(scores_V.isfinite().sum())))
    if temperature == 0:
        return int(best.indices[0])
    cumulative_K = torch.softmax(best.values.double() / temperature, 0).cumsum(0)
    return int(best.indices[min(int(torch.searchsorted(cumulative_K, draw, right=True)), len(cumulative_K) - 1)])


def _match_case(word: str, like: str) -> str:
    if len(like) > 1 and like.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if like[:1].isupper() else word
