"""The operations of a run together with what they depend on: training rows, seed, language models, progress."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from hf_finetune.augmentation.compose import Augmentation
from hf_finetune.augmentation.operations import ImageBatch, Paraphrase, Population, TextBatch, apply, generators
from hf_finetune.data.labels import labels_of


def population_of(rows: Dataset, names: Sequence[str]) -> Population:
    """Return the training rows in the form that operations read."""
    texts = rows["text"][:] if "text" in rows.column_names else ()
    return Population(tuple(names), labels_of(rows), texts)


@dataclass(frozen=True)
class Augmenter:
    """Augments training rows, online (`augmentation.online`) or offline (`augmentation.offline`)."""

    operations: tuple[Augmentation, ...]
    seed: int
    population: Population
    paraphrase: Paraphrase | None = None
    """Runs generative operations."""
    progress: Callable[[int, np.ndarray], np.ndarray] | None = None
    """Progress by epoch and rows, see `data.batching.Progress`. None if no operation depends on it, or outside
    training."""

    def texts(
        self, columns: dict[str, Any], rows: Sequence[int], epoch: int, view: int | Sequence[int] = 0
    ) -> TextBatch:
        """Augment rows of texts.

        Args:
            columns: canonical columns: text, label, optionally text_pair.
            rows: their indices among the training rows.
            view: see `operations.generators`.
        """
        progress = self._progress(rows, epoch, view)
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
        """Augment images; like `texts`. Return shape (B, 3, H, W), uint8."""
        batch = ImageBatch(pixels_BCHW, np.asarray(labels), self.population, self._progress(rows, epoch, view))
        return apply(self.operations, batch, generators(self.seed, rows, epoch, view)).pixels

    def _progress(self, rows: Sequence[int], epoch: int, view: int | Sequence[int]) -> np.ndarray | None:
        if self.progress is None:
            return None
        # Another view of a row belongs to another step, see `data.batching.number_repeats`.
        return self.progress(epoch, np.asarray(rows, dtype=int) + len(self.population.labels) * np.asarray(view))
