"""A few training rows as augmentation shows them: the very views that training sees, and pictures mixed with one another.

Legend: B rows, V views, H height, W width.
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
class Look:
    """Which view of a row."""

    name: str
    epoch: int
    view: int = 0


@dataclass(frozen=True)
class Mixture:
    """How the rows of a look were mixed with one another."""

    share: float
    """That every row kept of itself."""
    partners: tuple[int, ...]
    """For each row, which of them the rest is of, counted from 0."""


@dataclass(frozen=True)
class Preview:
    """Rows as they are, and their views."""

    rows: tuple[int, ...]
    """Their numbers in what they were read from."""
    labels: tuple[str, ...]
    looks: tuple[Look, ...]
    original: TextBatch | torch.Tensor
    """The texts; or the pictures at the size that the network reads, shape (B, 3, H, W), uint8."""
    views: tuple[TextBatch | torch.Tensor, ...]
    """As `original`, by look."""
    mixtures: tuple[Mixture | None, ...] = ()
    """By look; None: its rows were not mixed. Empty: none ever is."""

    def parts(self, look: int, i: int) -> tuple[tuple[int, float], ...]:
        """Which rows are in row i of a look, each with its share, what is nothing left out."""
        if (mixture := self.mixtures[look]) is None:
            return ((i, 1.0),)
        both = ((i, mixture.share), (mixture.partners[i], 1 - mixture.share))
        return tuple((row, share) for row, share in both if share > 0)

    def to_dict(self) -> dict[str, Any]:
        """As JSON; of pictures without the pictures."""
        records: list[dict[str, Any]] = [
            {"row": row, "label": label} for row, label in zip(self.rows, self.labels, strict=True)
        ]
        if isinstance(self.original, TextBatch):
            for i, record in enumerate(records):
                record["text"] = whole_text(self.original, i)
                record["views"] = {
                    look.name: whole_text(batch, i) for look, batch in zip(self.looks, self.views, strict=True)
                }
        for i, record in enumerate(records if self.mixtures else []):
            record["mixed"] = {
                look.name: [
                    {"row": self.rows[row], "label": self.labels[row], "share": round(share, 4)}
                    for row, share in self.parts(number, i)
                ]
                for number, look in enumerate(self.looks)
            }
        return {"views": [look.name for look in self.looks], "rows": records}


def looks(views: int, copies: int) -> tuple[Look, ...]:
    """The views that training begins with: those of the first epochs; or, of rows with stored copies, the first copies."""
    if copies:
        return tuple(Look(f"copy {view}", 0, view) for view in range(1, min(views, copies) + 1))
    return tuple(Look(f"epoch {epoch}", epoch) for epoch in range(views))


def some_rows(labels_N: np.ndarray, count: int) -> list[int]:
    """Places of so many rows, the first of every class, then the second of every class, and so on; none without a label (-1)."""
    before: dict[int, int] = {}
    order = []
    for place, label in enumerate(labels_N.tolist()):
        if label < 0:
            continue
        before[label] = before.get(label, 0) + 1
        order.append((before[label], label, place))
    return [place for _, _, place in sorted(order)[:count]]


def preview(
    train: Dataset,
    names: Sequence[str],
    places: Sequence[int],
    augmentation: Augmenter,
    shown: Sequence[Look],
    inputs: ImageInputs | None = None,
    mix: tuple[Mixing, ...] = (),
    *,
    epochs: float = 1.0,
) -> Preview:
    """Rows of `train` and their views; pictures mixed as if the rows were those of one forward pass.

    Args:
        train: all canonical training rows; which row has which view depends on its place among them.
        names: class names, index = number.
        places: of the rows to show, which have a label.
        inputs: what brings pictures to their size; None for texts.
        mix: for pictures; who is mixed with whom depends in training on which rows a step has, here on which are shown.
        epochs: of the training. Of `Phases` a row has that of its epoch's first step, whichever step it comes in.
    """
    augmentation = replace(augmentation, progress=lambda epoch, numbers: np.full(len(numbers), epoch / epochs))
    raw = train[list(places)]
    original: TextBatch | torch.Tensor
    views: tuple[TextBatch | torch.Tensor, ...]
    if inputs is None:
        original = TextBatch(raw["text"], raw.get("text_pair"))
        views = tuple(augmentation.texts(raw, places, look.epoch, look.view) for look in shown)
    else:
        original = inputs.pixels(raw["image"])
        views = tuple(augmentation.pixels(original, raw["label"], places, look.epoch, look.view) for look in shown)
    labels = tuple(names[label] for label in raw["label"])
    found = Preview(tuple(raw["row"]), labels, tuple(shown), original, views)
    if not mix:
        return found
    firsts = [places[0] + look.view * len(train) for look in shown]
    mixed = [
        _mixed(mix, view, mixing_generator(augmentation.seed, look.epoch, first))
        for view, look, first in zip(views, shown, firsts, strict=True)
    ]
    return replace(found, views=tuple(view for view, _ in mixed), mixtures=tuple(mixture for _, mixture in mixed))


def _mixed(
    mix: tuple[Mixing, ...], pixels_B3HW: torch.Tensor, rng: np.random.Generator
) -> tuple[torch.Tensor, Mixture | None]:
    """Pictures mixed with one another, uint8 again, and how.

    Training mixes them after they were normalised; all operations are means of pixels, so that it comes to the same.
    """
    batch = {"pixel_values": pixels_B3HW.float(), "labels": torch.arange(len(pixels_B3HW))}
    found = collate_mixed(mix, lambda _: batch, {"generator": rng})
    if "shares" not in found:
        return pixels_B3HW, None
    mixture = Mixture(float(found["shares"][0]), tuple(found["partners"].tolist()))
    return found["pixel_values"].round().clamp(0, 255).byte(), mixture


def whole_text(batch: TextBatch, i: int) -> str:
    """A row's text, or both texts of its pair."""
    return batch.texts[i] if batch.pairs is None else f"{batch.texts[i]} | {batch.pairs[i]}"
