"""A few training rows as augmentation shows them: the very views that training sees, and images mixed with one another.

Legend: B rows, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from hf_finetune.augmentation.augmenter import Augmenter
from hf_finetune.augmentation.mixing import Mixing
from hf_finetune.augmentation.online import collate_mixed, mixing_generator
from hf_finetune.augmentation.operations import TextBatch
from hf_finetune.data.inputs import ImageInputs


@dataclass(frozen=True)
class View:
    """Which view of a row."""

    name: str
    epoch: int
    number: int = 0


@dataclass(frozen=True)
class Mixture:
    """How the rows of a view were mixed with one another."""

    share: float
    """Of itself in every row."""
    partners: tuple[int, ...]
    """For each row, which of them the rest is of, counted from 0."""


@dataclass(frozen=True)
class Preview:
    """Rows as they are, and their views."""

    rows: tuple[int, ...]
    """Their numbers in what they were read from."""
    labels: tuple[str, ...]
    views: tuple[View, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON; of images without the images."""
        records = [
            {"row": row, "label": label, **self._content(i)}
            for i, (row, label) in enumerate(zip(self.rows, self.labels, strict=True))
        ]
        return {"views": [view.name for view in self.views], "rows": records}

    def _content(self, i: int) -> dict[str, object]:
        return {}


@dataclass(frozen=True)
class TextPreview(Preview):
    """Texts, or pairs of texts."""

    original: TextBatch
    batches: tuple[TextBatch, ...]
    """As `original`, by view."""

    def _content(self, i: int) -> dict[str, object]:
        pairs = zip(self.views, self.batches, strict=True)
        return {
            "text": whole_text(self.original, i),
            "views": {view.name: whole_text(batch, i) for view, batch in pairs},
        }


@dataclass(frozen=True)
class ImagePreview(Preview):
    """Images at the size that the network reads, shape (B, 3, H, W), uint8."""

    original: torch.Tensor
    batches: tuple[torch.Tensor, ...]
    """As `original`, by view."""
    mixtures: tuple[Mixture | None, ...] = ()
    """By view; None: its rows were not mixed. Empty: none ever is."""

    def parts(self, view: int, i: int) -> tuple[tuple[int, float], ...]:
        """Which rows are in row i of a view, each with its share, what is nothing left out."""
        if (mixture := self.mixtures[view]) is None:
            return ((i, 1.0),)
        both = ((i, mixture.share), (mixture.partners[i], 1 - mixture.share))
        return tuple((row, share) for row, share in both if share > 0)

    def _content(self, i: int) -> dict[str, object]:
        if not self.mixtures:
            return {}
        mixed = {
            view.name: [
                {"row": self.rows[row], "label": self.labels[row], "share": round(share, 4)}
                for row, share in self.parts(number, i)
            ]
            for number, view in enumerate(self.views)
        }
        return {"mixed": mixed}


def first_views(epochs: int, copies: int) -> tuple[View, ...]:
    """The views that training begins with: of the first epochs; or the first stored copies."""
    if copies:
        return tuple(View(f"copy {number}", 0, number) for number in range(1, min(epochs, copies) + 1))
    return tuple(View(f"epoch {epoch}", epoch) for epoch in range(epochs))


def rows_of_every_class(labels_N: np.ndarray, count: int) -> list[int]:
    """Places of so many rows: the first of every class, then the second of every class, and so on; none without a label
    (-1)."""
    before: dict[int, int] = {}
    order = []
    for place, label in enumerate(labels_N.tolist()):
        if label >= 0:
            before[label] = before.get(label, 0) + 1
            order.append((before[label], label, place))
    return [place for _, _, place in sorted(order)[:count]]


def preview_rows(
    train: Dataset,
    names: Sequence[str],
    places: Sequence[int],
    augmenter: Augmenter,
    views: Sequence[View],
    inputs: ImageInputs | None = None,
    mix: tuple[Mixing, ...] = (),
    *,
    epochs: float = 1.0,
) -> TextPreview | ImagePreview:
    """Rows of `train` and their views; images mixed as if the rows were those of one forward pass.

    Args:
        train: all canonical training rows; which row has which view depends on its place among them.
        names: class names, index = number.
        places: of the rows to show, which have a label.
        inputs: what brings images to their size; None for texts.
        mix: for images; who is mixed with whom depends on the rows of a step in training, here on those of the preview.
        epochs: of the training. Of `Phases` a row has that of its epoch's first step, whichever step it comes in.
    """
    augmenter = replace(augmenter, progress=lambda epoch, numbers: np.full(len(numbers), epoch / epochs))
    rows = train[list(places)]
    labels = tuple(names[label] for label in rows["label"])
    numbers, views = tuple(rows["row"]), tuple(views)
    if inputs is None:
        texts = tuple(augmenter.texts(rows, places, view.epoch, view.number) for view in views)
        return TextPreview(numbers, labels, views, TextBatch(rows["text"], rows.get("text_pair")), texts)
    original = inputs.pixels(rows["image"])
    images = [augmenter.pixels(original, rows["label"], places, view.epoch, view.number) for view in views]
    mixtures: list[Mixture | None] = []
    if mix:
        for i, view in enumerate(views):
            rng = mixing_generator(augmenter.seed, view.epoch, places[0] + view.number * len(train))
            images[i], mixture = _mixed(mix, images[i], rng)
            mixtures.append(mixture)
    return ImagePreview(numbers, labels, views, original, tuple(images), tuple(mixtures))


def _mixed(
    mix: tuple[Mixing, ...], pixels_B3HW: torch.Tensor, rng: np.random.Generator
) -> tuple[torch.Tensor, Mixture | None]:
    """Images mixed with one another, uint8 again, and how.

    Training mixes them after they were normalized; all operations are means of pixels, so that it comes to the same.
    """
    batch = {"pixel_values": pixels_B3HW.float(), "labels": torch.arange(len(pixels_B3HW))}
    mixed = collate_mixed(mix, lambda _: batch, {"generator": rng})
    if "shares" not in mixed:
        return pixels_B3HW, None
    mixture = Mixture(float(mixed["shares"][0]), tuple(mixed["partners"].tolist()))
    return mixed["pixel_values"].round().clamp(0, 255).byte(), mixture


def whole_text(batch: TextBatch, i: int) -> str:
    """A row's text, or both texts of its pair."""
    return batch.texts[i] if batch.pairs is None else f"{batch.texts[i]} | {batch.pairs[i]}"
