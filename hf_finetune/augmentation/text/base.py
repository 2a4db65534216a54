"""The base of operations on texts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

import numpy as np

from hf_finetune.augmentation.operations import Rng, TextBatch, each


class EachText(ABC):
    """An operation that changes every text by itself, and both texts of a pair."""

    def __call__(self, batch: TextBatch, rng: Rng) -> TextBatch:
        """The batch with each text sent through `change`; an empty second text stays.

        Raises:
            InputError: see `check_installed`.
        """
        self.check_installed()
        rngs = each(rng, len(batch))
        texts = [self.change(text, r) for text, r in zip(batch.texts, rngs, strict=True)]
        pairs = batch.pairs
        if pairs is not None:
            pairs = [self.change(text, r) if text.strip() else text for text, r in zip(pairs, rngs, strict=True)]
        return replace(batch, texts=texts, pairs=pairs)

    def check_installed(self) -> None:  # noqa: B027 most operations need none
        """Refuse to run without a package that the operation needs.

        Raises:
            InputError: naming it, and how it is installed.
        """

    @abstractmethod
    def change(self, text: str, rng: np.random.Generator) -> str:
        """Change a text."""
