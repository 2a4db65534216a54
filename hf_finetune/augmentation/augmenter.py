"""The operations of a run with what they need to know: the training rows, the seed, the language models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from hf_finetune.augmentation.compose import Augmentation
from hf_finetune.augmentation.operations import (
    ImageBatch,
    Paraphrase,
    Population,
    TextBatch,
    apply,
    generators,
)


def population_of(rows: Dataset, names: Sequence[str]) -> Population:
    """The training rows, as operations see them."""
    texts = rows["text"][:] if "text" in rows.column_names else ()
    return Population(tuple(names), np.asarray(rows["label"][:]), texts)


@dataclass(frozen=True)
class Augmenter:
    """Changes training rows, online (`augmentation.online`) or once (`augmentation.offline`)."""

    operations: tuple[Augmentation, ...]
    seed: int
    population: Population
    paraphrase: Paraphrase | None = None
    """For operations with a language model."""
    progress: Callable[[int, np.ndarray], np.ndarray] | None = None
    """Of an epoch and its rows, see `data.batching.Progress`. None: no operation needs it, or there is no training."""

    def texts(
        self, columns: dict[str, Any], rows: Sequence[int], epoch: int, view: int | Sequence[int] = 0
    ) -> TextBatch:
        """Rows of texts, changed.

        Args:
            columns: of canonical rows: text, label, perhaps text_pair.
            rows: their numbers among the training rows.
            view: see `operations.generators`.
        """
        progress = self._progress_of(rows, epoch, view)
        labels_B, pairs = np.asarray(columns["label"]), columns.get("text_pair")
        batch = TextBatch(columns["text"], pairs, labels_B, self.population, self.paraphrase, progress)
        return apply(self.operations, batch, generators(self.seed, rows, epoch, view))

    def pixels(
        self,
        pixels_BCHW: torch.Tensor,
        labels: Sequence[int],
        rows: Sequence[int],
        epoch: int,
        view: int | Sequence[int] = 0,
    ) -> torch.Tensor:
        """Images, changed, shape (B, 3, H, W), uint8; see `texts`."""
        batch = ImageBatch(pixels_BCHW, np.asarray(labels), self.population, self._progress_of(rows, epoch, view))
        return apply(self.operations, batch, generators(self.seed, rows, epoch, view)).pixels

    def _progress_of(self, rows: Sequence[int], epoch: int, view: int | Sequence[int]) -> np.ndarray | None:
        if self.progress is None:
            return None
        # A further view of a row belongs to a step of its own, see `data.batching.number_repeats`.
        return self.progress(epoch, np.asarray(rows, dtype=int) + len(self.population.labels) * np.asarray(view))
