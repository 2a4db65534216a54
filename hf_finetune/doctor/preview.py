"""Preview augmentation: a few training rows with the views that training sees, and images mixed with one another.

Legend: B rows, H height, W width.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from hf_finetune.augmentation.augmenter import Augmenter
from hf_finetune.augmentation.compose import depends_on_progress
from hf_finetune.augmentation.generative.paraphraser import check_checkpoints
from hf_finetune.augmentation.mixing import Mixing
from hf_finetune.augmentation.online import collate_mixed, mixing_generator
from hf_finetune.augmentation.operations import TextBatch
from hf_finetune.config.data import ImageData, TextData
from hf_finetune.data.image_processing import check_augmentable
from hf_finetune.data.inputs import ImageInputs
from hf_finetune.data.labels import UNLABELED
from hf_finetune.errors import InputError
from hf_finetune.models.checkpoint import inspect_checkpoint
from hf_finetune.models.config import Model
from hf_finetune.pipeline.augment import build_augmenter
from hf_finetune.pipeline.load_data import image_inputs, load_splits
from hf_finetune.tasks.trained_model import quiet_libraries
from hf_finetune.training.config import Batching, Train
from hf_finetune.training.precision import default_device


@dataclass(frozen=True)
class View:
    """The epoch and number of an augmented view."""

    name: str
    epoch: int
    number: int = 0


@dataclass(frozen=True)
class Mixture:
    """How the rows of a view were mixed with one another."""

    share: float
    """Share of the row itself; the same for every row."""
    partners: tuple[int, ...]
    """Index of the row that each row was mixed with."""


@dataclass(frozen=True)
class Preview:
    """Original rows and their augmented views."""

    rows: tuple[int, ...]
    """Row numbers in the source."""
    labels: tuple[str, ...]
    views: tuple[View, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the preview as JSON, without the pixels of images."""
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
    """One batch for each view."""

    def _content(self, i: int) -> dict[str, object]:
        views = {view.name: joined_text(batch, i) for view, batch in zip(self.views, self.batches, strict=True)}
        return {"text": joined_text(self.original, i), "views": views}


@dataclass(frozen=True)
class ImagePreview(Preview):
    """Images at the network's input size, shape (B, 3, H, W), uint8."""

    original: torch.Tensor
    batches: tuple[torch.Tensor, ...]
    """One batch for each view."""
    mixtures: tuple[Mixture | None, ...] = ()
    """One for each view, None where its rows were not mixed. Empty without mixing operations."""

    def parts(self, view: int, i: int) -> tuple[tuple[int, float], ...]:
        """Return the rows that row i of a view is a mixture of, each with its share above 0."""
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
    """Return the first views of a training: one for each epoch, or the stored copies."""
    if copies:
        return tuple(View(f"copy {number}", 0, number) for number in range(1, min(epochs, copies) + 1))
    return tuple(View(f"epoch {epoch}", epoch) for epoch in range(epochs))


def rows_of_every_class(labels_N: np.ndarray, count: int) -> list[int]:
    """Select `count` labeled rows: the first of every class, then the second of every class, and so on."""
    seen: Counter[int] = Counter()
    order = []
    for row, label in enumerate(labels_N.tolist()):
        if label != UNLABELED:
            order.append((seen[label], label, row))
            seen[label] += 1
    return [row for _, _, row in sorted(order)[:count]]


def load_preview(
    data: TextData | ImageData,
    mix: tuple[Mixing, ...],
    *,
    model: Model,
    train: Train,
    batching: Batching,
    rows: int,
    views: int,
) -> TextPreview | ImagePreview | None:
    """Preview the first `rows` rows, of every class in turn, as training augments them.

    Returns:
        None if nothing can be shown: texts are only mixed, and that in embedding space.

    Raises:
        InputError: the data or the checkpoint cannot be read, or the processor's images cannot be augmented.
    """
    cache_gb = batching.cache_gb
    quiet_libraries()
    check_checkpoints(data.augment, model)
    inputs = None
    if isinstance(data, ImageData):
        checkpoint = inspect_checkpoint(
            model.checkpoint, revision=model.revision, trust_remote_code=model.trust_remote_code, limits=model
        )
        inputs = image_inputs(model, checkpoint, decode_once=data.decode_once, cache_gb=cache_gb)
    splits = load_splits(data)
    if inputs is not None:
        field = "data.augment" if data.augment else "--show-augmentation"
        check_augmentable(inputs.processor, splits.train["image"], field)
    elif not data.augment:
        return None
    return preview_rows(
        splits.train,
        splits.labels,
        rows_of_every_class(splits.train.with_format("numpy")["label"][:], rows),
        build_augmenter(
            data.augment, splits, seed=train.seed, device=default_device(), cache_gb=cache_gb, limits=model
        ),
        first_views(views, data.augment_copies),
        inputs,
        mix if inputs is not None else (),
        epochs=_epochs(train, batching, data.augment, len(splits.train)),
    )


def _epochs(train: Train, batching: Batching, augment: tuple[Any, ...], rows: int) -> float:
    """Return the number of epochs of a training on `rows` rows.

    Raises:
        InputError: a token budget determines the steps, which are unknown before texts are tokenized.
    """
    if train.max_steps <= 0:
        return train.epochs
    if batching.token_budget is not None and depends_on_progress(augment):
        raise InputError(
            f"train.max_steps {train.max_steps}: expected train.num_train_epochs for a preview of Phases beside "
            "batching.token_budget, as the steps of an epoch depend on the tokens"
        )
    rows_per_step = batching.rows_per_step or train.per_device_train_batch_size * train.gradient_accumulation_steps
    return train.max_steps / math.ceil(rows / rows_per_step)


def preview_rows(
    train: Dataset,
    names: Sequence[str],
    chosen: Sequence[int],
    augmenter: Augmenter,
    views: Sequence[View],
    inputs: ImageInputs | None = None,
    mix: tuple[Mixing, ...] = (),
    *,
    epochs: float = 1.0,
) -> TextPreview | ImagePreview:
    """Augment rows of `train`. Images are mixed as if the rows were the batch of one forward pass.

    Args:
        train: all canonical training rows; the view of a row depends on its index.
        names: class names, in the order of the class ids.
        chosen: indices of labeled rows.
        inputs: resizes images; None for texts.
        mix: mixing operations for images. Partners are drawn among the rows of a step in training, here among `chosen`.
        epochs: length of the training. `Phases` are those of an epoch's first step.
    """
    augmenter = replace(augmenter, progress=lambda epoch, numbers: np.full(len(numbers), epoch / epochs))
    rows = train[list(chosen)]
    labels = tuple(names[label] for label in rows["label"])
    numbers, views = tuple(rows["row"]), tuple(views)
    if inputs is None:
        texts = tuple(augmenter.texts(rows, chosen, view.epoch, view.number) for view in views)
        return TextPreview(numbers, labels, views, TextBatch(rows["text"], rows.get("text_pair")), texts)
    original = inputs.pixels(rows["image"])
    images = [augmenter.pixels(original, rows["label"], chosen, view.epoch, view.number) for view in views]
    mixtures: list[Mixture | None] = []
    if mix:
        for i, view in enumerate(views):
            rng = mixing_generator(augmenter.seed, view.epoch, chosen[0] + view.number * len(train))
            images[i], mixture = _mix(mix, images[i], rng)
            mixtures.append(mixture)
    return ImagePreview(numbers, labels, views, original, tuple(images), tuple(mixtures))


def _mix(
    mix: tuple[Mixing, ...], pixels_B3HW: torch.Tensor, rng: np.random.Generator
) -> tuple[torch.Tensor, Mixture | None]:
    """Mix images with one another and return them as uint8, with the mixture.

    Training mixes normalized images. All mixing operations are weighted means of pixels, so the result is the same.
    """
    batch = {"pixel_values": pixels_B3HW.float(), "labels": torch.arange(len(pixels_B3HW))}
    mixed = collate_mixed(mix, lambda _: batch, {"generator": rng})
    if "shares" not in mixed:
        return pixels_B3HW, None
    mixture = Mixture(float(mixed["shares"][0]), tuple(mixed["partners"].tolist()))
    return mixed["pixel_values"].round().clamp(0, 255).byte(), mixture


def joined_text(batch: TextBatch, i: int) -> str:
    """Return a row's text, or both texts of its pair."""
    return batch.texts[i] if batch.pairs is None else f"{batch.texts[i]} | {batch.pairs[i]}"
