"""How operations on images are done row by row, and how they draw what they do.

One image after another: a row's result cannot depend on its neighbors, and an image of 224 pixels stays in a core's
cache from kernel to kernel, which batches do not (color kernels took the same time in batches of 8).
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from hf_finetune.augmentation.operations import ImageBatch, Rng, each
from hf_finetune.errors import InputError
from hf_finetune.utils.config import Probability, between

if TYPE_CHECKING:
    import torch

Draw = Literal["uniform", "ends"]
"""uniform: any value between the two ends of a range; ends: one of the two, as the published policies do it."""
GrayLevel = Annotated[int, between(0, 255)]


class EachImage(ABC):
    """An operation that changes each image by itself, with a probability that is its field `p`."""

    p: Probability

    def __call__(self, batch: ImageBatch, rng: Rng) -> ImageBatch:
        """The batch with each image sent through `change` with probability p."""
        pixels = batch.pixels.clone()
        for i, r in enumerate(each(rng, len(batch))):
            if r.random() < self.p:
                pixels[i] = self.change(batch.pixels[i], r)
        return dataclasses.replace(batch, pixels=pixels)

    @abstractmethod
    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        """An image, uint8, as another of its size, whatever `p` is; the one that came in stays as it was."""


def through(operations: Iterable[EachImage], image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
    """An image after several operations, each with its own probability."""
    for operation in operations:
        if r.random() < operation.p:
            image_CHW = operation.change(image_CHW, r)
    return image_CHW


def either_way(r: np.random.Generator, most: float, draw: Draw) -> float:
    """A number from -most to most, or one of the two."""
    return float(r.uniform(-most, most)) if draw == "uniform" else most * (1 - 2 * int(r.integers(2)))


def expect_in_order(operation: Any, smaller: str, larger: str) -> None:
    """Refuse a range whose first end is above its second.

    Raises:
        InputError: naming the operation, both fields and their values.
    """
    low, high = getattr(operation, smaller), getattr(operation, larger)
    if low > high:
        raise InputError(f"{type(operation).__name__}.{smaller}: expected {larger} ({high:g}) at most, got {low!r}")
