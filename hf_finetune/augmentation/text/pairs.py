"""Text operations on pairs of texts."""

from dataclasses import replace

from hf_finetune.augmentation.operations import Rng, TextBatch, each
from hf_finetune.errors import InputError
from hf_finetune.utils.config import Probability, configclass


@configclass
class SwapPair:
    """Exchange the two texts of a pair; the label stays.

    For symmetric relations, such as being a paraphrase, a duplicate, or similar; not for entailment or answers.
    """

    p: Probability = 0.5
    """Probability of each pair."""

    def __call__(self, batch: TextBatch, rng: Rng) -> TextBatch:
        """Exchange the texts; a pair with an empty second text stays.

        Raises:
            InputError: for single texts.
        """
        if batch.pairs is None:
            raise InputError(
                "SwapPair: expected pairs of texts, got single texts; name the second column, or leave it out"
            )
        pairs = [
            (second, first) if r.random() < self.p and second.strip() else (first, second)
            for first, second, r in zip(batch.texts, batch.pairs, each(rng, len(batch)), strict=True)
        ]
        return replace(batch, texts=[first for first, _ in pairs], pairs=[second for _, second in pairs])
