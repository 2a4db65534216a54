"""Base class of image operations, and the random draws they share.

Images are processed one at a time: a row's result cannot depend on its neighbors, and an image of 224 pixels a side
stays in a core's cache from kernel to kernel, which a batch does not (color kernels took the same time in batches
of 8).
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np

from hf_finetune.augmentation.operations import ImageBatch, Rng, each
from hf_finetune.errors import InputError
from hf_finetune.utils.config import Probability, between

if TYPE_CHECKING:
    import torch
    from torchvision.transforms import v2

Draw = Literal["uniform", "ends"]
"""uniform: any value between the two ends of a range. ends: one of the two ends, as in the published policies."""
GrayLevel = Annotated[int, between(0, 255)]
BOX_ATTEMPTS = 10
"""Boxes of random area and shape drawn before giving up, as not every one fits into the image."""


class EachImage(ABC):
    """An operation that changes each image on its own, with probability `p`."""

    p: Probability
    limits: ClassVar[tuple[str, str] | None] = None
    """Names of the fields with the lower and the upper end of the operation's range."""

    def __post_init__(self) -> None:
        if self.limits is not None:
            low, high = (getattr(self, name) for name in self.limits)
            if low > high:
                raise InputError(
                    f"{type(self).__name__}.{self.limits[0]}: expected {self.limits[1]} ({high:g}) at most, got {low!r}"
                )

    def __call__(self, batch: ImageBatch, rng: Rng) -> ImageBatch:
        """Change each image of the batch with probability p."""
        pixels = batch.pixels.clone()
        for i, r in enumerate(each(rng, len(batch))):
            if r.random() < self.p:
                pixels[i] = self.change(batch.pixels[i], r)
        return dataclasses.replace(batch, pixels=pixels)

    @abstractmethod
    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        """Return a changed uint8 image of the same shape, whatever `p` is. The input is not modified."""


class ByTorchvision(EachImage):
    """An operation that is a transform of torchvision.

    torchvision draws from torch's generator of this process. It is seeded from the row's generator for each image, and
    restored afterwards, so a view depends on its row alone, and dropout does not depend on the augmentation.
    """

    fill: GrayLevel

    @abstractmethod
    def transform(self, fill: list[float] | None) -> v2.Transform:
        """Return the transform, which is kept for further images; `fill` is the gray level as torchvision takes it."""

    @cached_property
    def _transform(self) -> v2.Transform:
        from hf_finetune.augmentation.image.kernels import fill_values

        return self.transform(fill_values(self.fill))

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        import torch

        generator = torch.default_generator  # `torch.manual_seed` would seed the GPU's, too
        before = generator.get_state()
        try:
            generator.manual_seed(int(r.integers(2**63)))
            changed: torch.Tensor = self._transform(image_CHW)
            return changed
        finally:
            generator.set_state(before)


def apply_in_turn(operations: Iterable[EachImage], image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
    """Apply several operations to an image, each with its own probability."""
    for operation in operations:
        if r.random() < operation.p:
            image_CHW = operation.change(image_CHW, r)
    return image_CHW


def draw_symmetric(r: np.random.Generator, limit: float, draw: Draw) -> float:
    """Draw a number between -limit and limit, or one of these two."""
    return float(r.uniform(-limit, limit)) if draw == "uniform" else limit * (1 - 2 * int(r.integers(2)))


def draw_box(
    size: tuple[int, int], draw_sides: Callable[[], tuple[int, int]], r: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """Draw a box inside an image: top, left, height and width. None if no drawn box fits.

    Args:
        size: height and width of the image.
        draw_sides: draws height and width of a box.
    """
    for _ in range(BOX_ATTEMPTS):
        height, width = draw_sides()
        if height <= size[0] and width <= size[1]:
            return int(r.integers(size[0] - height + 1)), int(r.integers(size[1] - width + 1)), height, width
    return None
