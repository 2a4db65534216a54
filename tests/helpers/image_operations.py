"""Images for operations on them, and what comes of them."""

import numpy as np
import torch

from hf_finetune.augmentation.image.operations import ImageOperation
from hf_finetune.augmentation.operations import ImageBatch, Population, generators


def images(count: int = 8, height: int = 20, width: int = 26) -> ImageBatch:
    """Spots of colour with some noise, all values short of black and white."""
    r = np.random.default_rng(5)
    coarse = r.integers(20, 230, (count, 3, 4, 5))
    spots = coarse[:, :, np.arange(height) * 4 // height][:, :, :, np.arange(width) * 5 // width]
    values = spots + r.integers(-9, 10, spots.shape)
    labels = np.arange(count) % 2
    return ImageBatch(torch.from_numpy(values.astype(np.uint8)), labels, Population(("a", "b"), labels))


def gens(count: int, seed: int = 0, epoch: int = 0, view: int = 0) -> list[np.random.Generator]:
    return generators(seed, range(count), epoch, view)


def one(operation: ImageOperation, image_CHW: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return operation(ImageBatch(image_CHW[None]), gens(1, seed)).pixels[0]


def outcomes(operation: ImageOperation, image_CHW: torch.Tensor, draws: int = 40) -> set[bytes]:
    """All that comes of an image in so many draws."""
    changed = operation(ImageBatch(image_CHW.expand(draws, -1, -1, -1)), gens(draws)).pixels
    return {each.numpy().tobytes() for each in changed}


def as_bytes(*expected: torch.Tensor) -> set[bytes]:
    return {each.contiguous().numpy().tobytes() for each in expected}


def grey(rows: list[list[int]]) -> torch.Tensor:
    """An image of these values in all three channels."""
    return torch.tensor(rows, dtype=torch.uint8).expand(3, -1, -1)


def off(actual: torch.Tensor, expected: torch.Tensor) -> int:
    return int((actual.int() - expected.int()).abs().max())
