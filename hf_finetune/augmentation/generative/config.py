"""Augmentation of texts by language models: another word in its place, or another wording by way of another language.

What is done stands here; the models that do it are above this floor, in `rewording`, and come with the batch. A model's pass
over the rows takes far longer than a training step, so these are for stored copies (`data.augment_copies`) alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hf_finetune.augmentation.operations import Rng, TextBatch, each, expect
from hf_finetune.errors import InputError

# More than any of them is given, and a bound that can be said.
MANY = 100_000


@dataclass(frozen=True)
class SubstituteByModel:
    """Exchange words for others that a masked language model finds likely in their place (arXiv:1805.06201).

    Words of letters alone are exchanged, whole, for whole words of the model's vocabulary that are not the same word; numbers,
    @names, #tags and addresses stay. What it puts in need not mean the same: a negation or the word that decides the class may
    go, so keep p low.
    """

    checkpoint: str
    """Hub id or folder of a checkpoint with a trained masked-language-model head, such as distilbert/distilroberta-base."""
    p: float = 0.15
    """Share of the words; at least one where it is above 0."""
    top_k: int = 20
    """How many of the likeliest words are drawn from."""
    temperature: float = 1.0
    """Below 1 the likelier ones are drawn more often. 0: always the likeliest."""
    max_length: int = 256
    """Tokens that the model is shown of a text, or fewer where it has fewer positions; words behind stay."""
    batch_size: int = 32
    """Texts of a pass at most; fewer where the vocabulary is large."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""

    def __post_init__(self) -> None:
        _expect_named(self, "checkpoint")
        expect(self, "p", 0, 1)
        expect(self, "top_k", 1, MANY)
        expect(self, "temperature", 0, 100)
        expect(self, "max_length", 4, MANY)
        expect(self, "batch_size", 1, MANY)

    def __call__(self, batch: TextBatch, rng: Rng) -> TextBatch:
        """Texts of as many words; one of fewer than two stays itself.

        Raises:
            InputError: the batch comes without models; the checkpoint cannot be read, or has no trained head.
        """
        return batch if self.p == 0 else _paraphrased(self, batch, rng)


@dataclass(frozen=True)
class BackTranslate:
    """Translate texts into another language and back, sentence by sentence (arXiv:1511.06709, arXiv:1904.12848).

    A sentence that is too long for the models, or whose translation does not end in time, stays itself. For checkpoints that
    translate between two languages (Marian, FSMT), or are told by words which (T5); not those told by a token (NLLB, mBART).
    """

    there: str
    """Hub id or folder of a sequence-to-sequence checkpoint out of the texts' language, such as Helsinki-NLP/opus-mt-en-de."""
    back: str
    """Hub id or folder of one into it again, such as Helsinki-NLP/opus-mt-de-en; T5 can be both."""
    there_prefix: str = ""
    """What `there` needs before a sentence: "translate English to German: " for T5, ">>fr<< " for Marian of many languages."""
    back_prefix: str = ""
    """What `back` needs before a sentence."""
    num_beams: int = 1
    """Beams of the search for the likeliest translation. 1: greedy."""
    temperature: float = 0.0
    """Above 0, words are drawn at random: more variety and more mistakes, and copies that differ. 0: the likeliest translation,
    the same in every copy."""
    top_k: int = 50
    """How many of the likeliest tokens are drawn from, where temperature is above 0."""
    max_length: int = 128
    """Longest sentence in tokens, prefix included, and longest translation; fewer where a model has fewer positions."""
    batch_size: int = 32
    """Sentences that are translated together."""
    there_revision: str | None = None
    """Branch, tag or commit of `there` on the Hub."""
    back_revision: str | None = None
    """Branch, tag or commit of `back` on the Hub."""

    def __post_init__(self) -> None:
        _expect_named(self, "there")
        _expect_named(self, "back")
        expect(self, "num_beams", 1, 100)
        expect(self, "temperature", 0, 100)
        expect(self, "top_k", 1, MANY)
        expect(self, "max_length", 4, MANY)
        expect(self, "batch_size", 1, MANY)
        if self.num_beams > 1 and self.temperature:
            raise InputError(f"BackTranslate.temperature: expected 0 with num_beams above 1, got {self.temperature!r}")

    def __call__(self, batch: TextBatch, rng: Rng) -> TextBatch:
        """Texts that say it otherwise, with the white space between sentences as it was.

        Raises:
            InputError: the batch comes without models; a checkpoint cannot be read, or is none that translates.
        """
        return _paraphrased(self, batch, rng)


GenerativeOperation = SubstituteByModel | BackTranslate


def _expect_named(operation: GenerativeOperation, name: str) -> None:
    if not getattr(operation, name).strip():
        kind = type(operation).__name__
        raise InputError(f"{kind}.{name}: expected a Hub id or the folder of a checkpoint, got an empty name")


def _paraphrased(operation: GenerativeOperation, batch: TextBatch, rng: Rng) -> TextBatch:
    """The batch with all texts, and all second texts of pairs that there are, reworded together.

    A row's generator gives one seed for each of its texts before any model is asked: what the row draws later depends neither
    on its company nor on whether the answer was kept from an earlier run.
    """
    if batch.paraphrase is None:
        raise InputError(
            f"data.augment: {type(operation).__name__} asks a language model and is for stored copies alone; "
            "expected another operation here, or data.augment_copies 1 or more in training"
        )
    rngs, pairs = each(rng, len(batch)), list(batch.pairs or ())
    seconds = [i for i, text in enumerate(pairs) if text.strip()]
    seeds = [int(r.integers(2**63)) for r in [*rngs, *(rngs[i] for i in seconds)]]
    changed = batch.paraphrase(operation, [*batch.texts, *(pairs[i] for i in seconds)], seeds)
    for i, text in zip(seconds, changed[len(batch) :], strict=True):
        pairs[i] = text
    return replace(batch, texts=changed[: len(batch)], pairs=None if batch.pairs is None else pairs)
