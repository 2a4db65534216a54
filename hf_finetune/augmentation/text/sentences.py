"""Text operations on sentences and halves of a text."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hf_finetune.augmentation.operations import Rng, TextBatch, each
from hf_finetune.augmentation.text.base import ByShare, EachText
from hf_finetune.data.text_pieces import joined, joined_words, sentences_of, words_of
from hf_finetune.errors import InputError
from hf_finetune.utils.config import Probability, configclass


@configclass
class ShuffleSentences(ByShare, EachText):
    """Shuffle the sentences of a text; the white space between them stays in place.

    A last sentence without a full stop merges with the sentence that follows it after shuffling.
    """

    p: Probability = 1.0
    """Probability of each text."""

    def change(self, text: str, rng: np.random.Generator) -> str:
        if self.p == 0 or rng.random() >= self.p:
            return text
        sentences, gaps = sentences_of(text)
        if len(sentences) < 2:
            return text
        order = rng.permutation(len(sentences)).tolist()
        return joined([sentences[i] for i in order], gaps)


@configclass
class MixHalves(ByShare):
    """Join the first half of a text and the second half of another training text of its class; the label stays.

    For tasks in which either half alone shows the class, such as sentiment or topic.
    """

    p: Probability = 0.5
    """Probability of each text."""

    def __call__(self, batch: TextBatch, rng: Rng) -> TextBatch:
        """Mix the texts; one without a label, without another text of its class, or of fewer than two words stays.

        Raises:
            InputError: for pairs of texts, for tags or numbers, or without the training rows and their classes.
        """
        if self.p == 0:
            return batch
        if batch.pairs is not None:
            raise InputError(
                "MixHalves: expected rows of one text, got pairs, which two halves would tear apart; leave it out"
            )
        if batch.labels is None or batch.population is None:
            raise InputError("MixHalves: expected training rows with their classes, got texts alone; leave it out here")
        if batch.labels.ndim != 1:
            raise InputError(
                "MixHalves: expected rows of one class, got tags or numbers, which halves may not share; leave it out"
            )
        rngs = each(rng, len(batch))
        texts = []
        for text, label, r in zip(batch.texts, batch.labels.tolist(), rngs, strict=True):
            rows = batch.population.rows_of[label] if label >= 0 else np.array([])
            texts.append(self._mix(text, batch.population.texts, rows, r) if r.random() < self.p else text)
        return replace(batch, texts=texts)

    @staticmethod
    def _mix(text: str, texts: Sequence[str], rows: np.ndarray, rng: np.random.Generator) -> str:
        words, gaps = words_of(text)
        if len(words) < 2 or len(rows) == 0:
            return text
        place = int(rng.random() * len(rows))
        other = texts[rows[place]]
        if other == text:
            other = texts[rows[(place + 1) % len(rows)]]  # the row itself or a duplicate was drawn
        other_words, other_gaps = words_of(other)
        if other == text or len(other_words) < 2:
            return text
        half, other_half = (len(words) + 1) // 2, (len(other_words) + 1) // 2
        return joined_words(words[:half] + other_words[other_half:], gaps[: half + 1] + other_gaps[other_half + 1 :])


SentenceOperation = ShuffleSentences | MixHalves
