"""The base of operations by language models: what they need, and how they change a batch.

A model's pass over the rows takes far longer than a training step, so these are for offline augmentation
(`data.augment_copies`) alone. The models are loaded by `generative.paraphraser` and come with the batch.
"""

from __future__ import annotations

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

# A bound that can be named, above any sensible value.
MANY = 100_000

CheckpointName = Annotated[str, Check(str.strip, "a Hub id or the folder of a checkpoint")]
Load = Callable[[Source], "LanguageModel"]


class GenerativeOperation(ABC):
    """An operation by language models, on all texts of a batch together."""

    @property
    @abstractmethod
    def sources(self) -> tuple[Source, ...]:
        """The checkpoints, in the order in which they are used."""

    @abstractmethod
    def rewrite(self, texts: Sequence[str], seeds: Sequence[int], load: Load) -> list[str]:
        """The texts, each changed by the random numbers of its own seed."""

    def __call__(self, batch: TextBatch, rng: Rng) -> TextBatch:
        """The batch with all texts, and all second texts of pairs that there are, changed.

        A row's generator gives one seed for each of its texts before any model runs: what the row draws later depends
        neither on the rows beside it nor on whether the texts were cached by an earlier run.

        Raises:
            InputError: the batch comes without models; a checkpoint cannot be read, or is of another kind.
        """
        if batch.paraphrase is None:
            raise InputError(
                f"data.augment: {type(self).__name__} asks a language model and is for stored copies alone; "
                "expected another operation here, or data.augment_copies 1 or more in training"
            )
        rngs, pairs = each(rng, len(batch)), list(batch.pairs or ())
        seconds = [i for i, text in enumerate(pairs) if text.strip()]
        seeds = [int(r.integers(2**63)) for r in [*rngs, *(rngs[i] for i in seconds)]]
        changed = batch.paraphrase(self, [*batch.texts, *(pairs[i] for i in seconds)], seeds)
        for i, text in zip(seconds, changed[len(batch) :], strict=True):
            pairs[i] = text
        return replace(batch, texts=changed[: len(batch)], pairs=None if batch.pairs is None else pairs)
