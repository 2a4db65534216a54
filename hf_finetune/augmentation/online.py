"""Training rows as augmentation shows them: another view in every epoch, or a number of stored ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from datasets.fingerprint import generate_random_fingerprint
from tqdm import tqdm

from hf_finetune.augmentation.operations import ImageBatch, Operation, Population, Reword, TextBatch, apply, generators
from hf_finetune.data import pixels
from hf_finetune.data.inputs import EpochRows, ImageInputs, Inputs, TextInputs
from hf_finetune.data.splits import row_digests
from hf_finetune.errors import InputError
from hf_finetune.utils import disk_cache

# Rows of a batch while copies are made. Pictures are large; of texts, a language model puts those of like length together,
# and so many of its answers at most are lost when a run is killed.
PICTURES_AT_A_TIME, TEXTS_AT_A_TIME = 64, 512


def population_of(rows: Dataset, names: Sequence[str]) -> Population:
    """The training rows, as operations see them."""
    texts = rows["text"][:] if "text" in rows.column_names else ()
    return Population(tuple(names), np.asarray(rows["label"][:]), texts)


@dataclass(frozen=True)
class Augmentation:
    """Operations, with what they need to know of the training rows."""

    operations: tuple[Operation, ...]
    seed: int
    population: Population
    reword: Reword | None = None
    """For operations that ask a language model."""
    progress: Callable[[int, np.ndarray], np.ndarray] | None = None
    """Of an epoch and rows of it: see `data.batching.Progress`; None: no operation asks for it, or the rows are shown in no training."""

    def texts(self, raw: dict[str, list], rows: Sequence[int], epoch: int, view: int | Sequence[int] = 0) -> TextBatch:
        """Rows of texts, changed.

        Args:
            raw: columns of canonical rows: text, label, perhaps text_pair.
            rows: their numbers among the training rows.
            view: see `augmentation.generators`.
        """
        batch = TextBatch(
            raw["text"],
            raw.get("text_pair"),
            np.asarray(raw["label"]),
            self.population,
            self.reword,
            self._progress_of(rows, epoch, view),
        )
        return apply(self.operations, batch, generators(self.seed, rows, epoch, view))

    def pixels(
        self,
        pixels_BCHW: torch.Tensor,
        labels: Sequence[int],
        rows: Sequence[int],
        epoch: int,
        view: int | Sequence[int] = 0,
    ) -> torch.Tensor:
        """Pictures, changed, shape (B, 3, H, W), uint8; see `texts`."""
        batch = ImageBatch(pixels_BCHW, np.asarray(labels), self.population, self._progress_of(rows, epoch, view))
        return apply(self.operations, batch, generators(self.seed, rows, epoch, view)).pixels

    def _progress_of(self, rows: Sequence[int], epoch: int, view: int | Sequence[int]) -> np.ndarray | None:
        if self.progress is None:
            return None
        # A further view of a row comes in a step of its own, see `batching.number_repeats`.
        return self.progress(epoch, np.asarray(rows, dtype=int) + len(self.population.labels) * np.asarray(view))


class Views(EpochRows):
    """Encoded training rows, each as the epoch's view of it.

    Indices beyond the rows stand for further views of them in the same epoch, see `batching.number_repeats`.

    Args:
        rows: encoded rows that still have what they were encoded from.
        inputs: encodes the views.
        augmentation: makes them.
    """

    def __init__(self, rows: Dataset, inputs: Inputs, augmentation: Augmentation) -> None:
        wanted = ("text", "text_pair", "image", "label")
        self.rows = rows.select_columns([c for c in wanted if c in rows.column_names])
        self.inputs, self.augmentation = inputs, augmentation

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: column[0] for name, column in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        return self.encoded(self.changed(indices))

    @cached_property
    def _made_of(self) -> dict[str, Any]:
        assert isinstance(self.inputs, ImageInputs), "texts are known by what became of them"
        return _made_of(self.rows, self.inputs, self.augmentation)

    @property
    def identity(self) -> dict[str, Any]:
        """All that the epoch's views of pictures depend on, as JSON has it."""
        progress = self.augmentation.progress
        over = None if progress is None else progress(self.epoch, np.arange(len(self))).tolist()
        return {**self._made_of, "epoch": self.epoch, "progress": over}

    def texts(self) -> Dataset:
        """The epoch's views of all rows of texts, as canonical rows without labels, in memory."""
        views = self.changed(range(len(self)))
        return Dataset.from_dict({name: views[name] for name in ("text", "text_pair") if views[name] is not None})

    def changed(self, indices: Sequence[int]) -> dict[str, Any]:
        """The epoch's views of rows: `text` and `text_pair` (None: there is none), or `pixels` (B, 3, H, W), uint8; `label`."""
        views, rows = (part.tolist() for part in np.divmod(np.asarray(indices, dtype=int), len(self)))
        raw, inputs = self.rows[rows], self.inputs
        if isinstance(inputs, TextInputs):
            batch = self.augmentation.texts(raw, rows, self.epoch, views)
            return {"text": batch.texts, "text_pair": batch.pairs, "label": raw["label"]}
        pixels_BCHW = self.augmentation.pixels(inputs.pixels(raw["image"]), raw["label"], rows, self.epoch, views)
        return {"pixels": pixels_BCHW, "label": raw["label"]}

    def encoded(self, views: dict[str, Any]) -> dict[str, Any]:
        """Views as the model's inputs are made of them."""
        encoded = (
            self.inputs.encode_batch(views) if isinstance(self.inputs, TextInputs) else {"pixels": views["pixels"]}
        )
        return {**encoded, "label": views["label"]}


class TwoViews(EpochRows):
    """Pictures without labels, each as views 0 and 1 of it, others in every epoch; see `Views`.

    Args:
        rows: encoded rows.
        inputs: encodes the views.
        operations: make them, of the picture alone.
        seed: of the run.
    """

    def __init__(self, rows: Dataset, inputs: ImageInputs, operations: tuple[Operation, ...], seed: int) -> None:
        self.rows, self.inputs, self.operations = rows.select_columns(inputs.columns), inputs, operations
        self.seed = seed

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        """`pixels` (2 B, 3, H, W), uint8: the first views of all rows, then their second ones."""
        batch = ImageBatch(self.inputs.pixels(self.rows[[int(i) for i in indices]]["image"]))
        views = (apply(self.operations, batch, generators(self.seed, indices, self.epoch, view)) for view in (0, 1))
        return {"pixels": torch.cat([view.pixels for view in views])}


def collate_two_views(inputs: ImageInputs, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """A batch of `TwoViews`: `pixel_values` (2 B, 3, H, W), and a label of 0 for each row, by which the trainer counts them."""
    return {**inputs.collate(batch), "labels": torch.zeros(len(batch["pixels"]) // 2, dtype=torch.long)}


def with_copies(rows: Dataset, inputs: Inputs, augmentation: Augmentation, copies: int) -> Dataset:
    """The rows, and behind them so many changed copies of all of them; copy v of a row is its view v in epoch 0.

    Args:
        rows: canonical training rows.
        copies: how many of each.

    Raises:
        InputError: see `augmentation.apply`; or there is no room for pictures.
    """
    make = _copied_texts if isinstance(inputs, TextInputs) else _copied_pictures
    with tqdm(total=len(rows) * copies, desc="augment", unit="row", dynamic_ncols=True, disable=None) as bar:
        return concatenate_datasets(make(rows, inputs, augmentation, copies, bar))


def without_scored(copied: Dataset, originals: int, scored: Sequence[Dataset]) -> Dataset:
    """Without the changed texts that equal a row which is scored: a model that has trained on them has seen it.

    Args:
        copied: see `with_copies`.
        originals: how many of the rows, the first, are no copies; these are counted where the data are divided.
        scored: canonical rows of validation and test.
    """
    if "text" not in copied.column_names:
        # The pixels of a changed picture are no file's.
        return copied
    known = {digest for rows in scored for digest in row_digests(rows.with_format("arrow")[:])}
    found = row_digests(copied.with_format("arrow")[:])
    return copied.select([i for i, digest in enumerate(found) if i < originals or digest not in known])


def _copied_texts(
    rows: Dataset, inputs: TextInputs, augmentation: Augmentation, copies: int, bar: tqdm
) -> list[Dataset]:
    """The rows, and each copy of them, in memory."""

    def change(raw: dict[str, list], indices: list[int], view: int) -> dict[str, list]:
        batch = augmentation.texts(raw, indices, 0, view)
        bar.update(len(indices))
        return {"text": batch.texts} | ({} if batch.pairs is None else {"text_pair": batch.pairs})

    return [rows] + [
        rows.map(
            change,
            with_indices=True,
            fn_kwargs={"view": view},
            batched=True,
            batch_size=TEXTS_AT_A_TIME,
            features=rows.features,
            keep_in_memory=True,
            # By default it is a hash of all that `change` holds, texts included.
            new_fingerprint=generate_random_fingerprint(),
        )
        for view in range(1, copies + 1)
    ]


def _copied_pictures(
    rows: Dataset, inputs: ImageInputs, augmentation: Augmentation, copies: int, bar: tqdm
) -> list[Dataset]:
    """The rows, and each copy of them, in stores of pixels as the network reads them: no processor sees a copy again, which
    might cut off its border once more."""

    def changed(view: int) -> Iterator[torch.Tensor]:
        for start in range(0, len(decoded), PICTURES_AT_A_TIME):
            part = decoded[start : start + PICTURES_AT_A_TIME]
            numbers = range(start, start + len(part["label"]))
            yield augmentation.pixels(inputs.pixels(part["image"]), part["label"], numbers, 0, view)
            bar.update(len(numbers))

    about = _made_of(rows, inputs, augmentation)
    try:
        decoded = pixels.keep_decoded(rows, inputs.processor, budget_gb=inputs.cache_gb)
        size = tuple(inputs.pixels(decoded[:1]["image"]).shape[1:])
        return [decoded] + [
            pixels.keep(rows, changed(view), size, {**about, "view": view}, budget_gb=inputs.cache_gb)
            for view in range(1, copies + 1)
        ]
    except disk_cache.NoStore as why:
        raise InputError(
            f"data.augment_copies: expected 0, which changes pictures as they are read, or room for {copies} copies: {why}"
        ) from None


def _made_of(rows: Dataset, inputs: ImageInputs, augmentation: Augmentation) -> dict[str, Any]:
    """All that changed pictures depend on, but for the epoch and the view."""
    return {
        "original": pixels.identity(rows, inputs.processor),
        "version": version("hf_finetune"),
        "operations": repr(augmentation.operations),
        "seed": augmentation.seed,
        "labels": augmentation.population.labels.tolist(),
    }
