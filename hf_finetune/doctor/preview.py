"""A few training rows as augmentation shows them: the very views that training sees.

Legend: B rows, V views, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from hf_finetune.data.augmentation import TextBatch
from hf_finetune.data.inputs import ImageInputs
from hf_finetune.data.views import Augmentation


@dataclass(frozen=True)
class Look:
    """Which view of a row."""

    name: str
    epoch: int
    view: int = 0


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
        return {"views": [look.name for look in self.looks], "rows": records}


def looks(views: int, copies: int) -> tuple[Look, ...]:
    """The views that training begins with: those of the first epochs; or, of rows with stored copies, the first copies."""
    if copies:
        return tuple(Look(f"copy {view}", 0, view) for view in range(1, min(views, copies) + 1))
    return tuple(Look(f"epoch {epoch}", epoch) for epoch in range(views))


def some_rows(labels_N: np.ndarray, count: int) -> list[int]:
    """Places of so many rows, the first of every class, then the second of every class, and so on."""
    before: dict[int, int] = {}
    order = []
    for place, label in enumerate(labels_N.tolist()):
        before[label] = before.get(label, 0) + 1
        order.append((before[label], label, place))
    return [place for _, _, place in sorted(order)[:count]]


def preview(
    train: Dataset,
    names: Sequence[str],
    places: Sequence[int],
    augmentation: Augmentation,
    shown: Sequence[Look],
    inputs: ImageInputs | None = None,
) -> Preview:
    """Rows of `train` and their views.

    Args:
        train: all canonical training rows; which row has which view depends on its place among them.
        names: class names, index = number.
        places: of the rows to show.
        inputs: what brings pictures to their size; None for texts.
    """
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
    return Preview(tuple(raw["row"]), labels, tuple(shown), original, views)


def whole_text(batch: TextBatch, i: int) -> str:
    """A row's text, or both texts of its pair."""
    return batch.texts[i] if batch.pairs is None else f"{batch.texts[i]} | {batch.pairs[i]}"
