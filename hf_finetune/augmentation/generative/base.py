"""Base class of operations that run language models.

A model takes far longer per row than a training step, so these operations are for offline augmentation
(`data.augment_copies`) only. `generative.paraphraser` loads the models and comes with the batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from hf_finetune.augmentation.generative.sources import Source
from hf_finetune.augmentation.operations import Rng, TextBatch, each
from hf_finetune.errors import InputError
from hf_finetune.utils.config_errors import Check

if TYPE_CHECKING:
    from hf_finetune.augmentation.generative.checkpoints import LanguageModel

MANY = 100_000
"""An upper bound above any sensible value."""

CheckpointName = Annotated[str, Check(str.strip, "a Hub id or the folder of a checkpoint")]
Load = Callable[[Source], "LanguageModel"]


class GenerativeOperation(ABC):
    """An operation that runs language models on all texts of a batch together."""

    @property
    @abstractmethod
    def sources(self) -> tuple[Source, ...]:
        """The checkpoints, in order of use."""

    @abstractmethod
    def rewrite(self, texts: Sequence[str], seeds: Sequence[int], load: Load) -> list[str]:
        """Return the changed texts. Each text draws from a generator of its own seed."""

    def __call__(self, batch: TextBatch, rng: Rng) -> TextBatch:
        """Change all texts of the batch, and all second texts of pairs that are not empty.

        Each row's generator gives one seed per text before any model runs. What the row draws later therefore depends
        neither on other rows nor on whether an earlier run has cached the texts.

        Raises:
            InputError: the batch comes without models; a checkpoint cannot be read, or is of another kind.
        """
        if batch.paraphrase is None:
            raise InputError(
                f"data.augment: {type(self).__name__} runs a language model and is for stored copies only; "
                "expected another operation here, or data.augment_copies 1 or more in training"
            )
        rngs, pairs = each(rng, len(batch)), list(batch.pairs or ())
        non_empty = [i for i, text in enumerate(pairs) if text.strip()]
        seeds = [int(r.integers(2**63)) for r in [*rngs, *(rngs[i] for i in non_empty)]]
        changed = batch.paraphrase(self, [*batch.texts, *(pairs[i] for i in non_empty)], seeds)
        for i, text in zip(non_empty, changed[len(batch) :], strict=True):
            pairs[i] = text
        return replace(batch, texts=changed[: len(batch)], pairs=None if batch.pairs is None else pairs)
