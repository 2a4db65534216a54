"""Mixing the rows of a batch with one another: what `objective.mix` can hold, cheap to import.

An operation is a frozen dataclass with `__call__(batch, rng) -> batch`, on the tensors of one forward pass. Each row
keeps a share of itself and gets the rest from a partner among the same rows. What comes out says so, by `partners` and
`shares` beside the `labels`, which stay as they were; `training.input_mixing` makes soft labels of the three. A
batch that is not mixed comes out as it came in: one of a single row, at p 0 or alpha 0.

Legend: B rows of a forward pass, H height, W width, T tokens.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np

from hf_finetune.utils.config import Probability, between, configclass

if TYPE_CHECKING:
    import torch

Batch = dict[str, "torch.Tensor"]


class MixingOperation(ABC):
    """Mixes the rows of some forward passes, each with a partner."""

    alpha: float
    p: Probability
    mixes_texts: ClassVar[bool] = False
    """Whether it can mix texts as well as images."""

    def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """The batch, mixed with probability `p`."""
        rows = len(batch["labels"])
        if rows < 2 or self.alpha == 0 or rng.random() >= self.p:
            return batch
        # As exact as `shares`, so that a share of 0 or 1 is one for all who ask.
        share = float(np.float32(rng.beta(self.alpha, self.alpha)))
        return self.mix(batch, share, rng.permutation(rows), rng)

    @abstractmethod
    def mix(self, batch: Batch, share: float, partners: np.ndarray, rng: np.random.Generator) -> Batch:
        """The batch, each row mixed with its partner; `share` is what it keeps of itself."""


@configclass
class Mixup(MixingOperation):
    """Blend each row with another: images pixel by pixel (arXiv:1710.09412), texts word embedding by word embedding
    (arXiv:1905.08941)."""

    alpha: Annotated[float, between(0, 100)] = 0.2
    """A row's own share is drawn from Beta(alpha, alpha): at 1 any share is as likely as another, towards 0 one of the
    two rows has nearly all. 0: off."""
    p: Probability = 1.0
    """Probability that the rows of a forward pass are mixed."""
    mixes_texts: ClassVar[bool] = True

    def mix(self, batch: Batch, share: float, partners: np.ndarray, rng: np.random.Generator) -> Batch:
        """Of texts only what stands beside the word embeddings is mixed here; see `training.input_mixing` for the
        rest."""
        if "pixel_values" not in batch:
            return _with_shares({**batch, **_united(batch, share, partners)}, share, partners)
        pixels_BCHW = batch["pixel_values"]
        blended = share * pixels_BCHW + (1 - share) * pixels_BCHW[partners]
        return _with_shares({**batch, "pixel_values": blended}, share, partners)


@configclass
class CutMix(MixingOperation):
    """Put a box of another image in the same place of each image (arXiv:1905.04899)."""

    alpha: Annotated[float, between(0, 100)] = 1.0
    """A row's own share of the area is drawn from Beta(alpha, alpha), and counted again where the box reaches over the
    border. 0: off."""
    p: Probability = 1.0
    """Probability that the rows of a forward pass are mixed."""

    def mix(self, batch: Batch, share: float, partners: np.ndarray, rng: np.random.Generator) -> Batch:
        """One box for all rows; its middle is anywhere in the image."""
        pixels_BCHW = batch["pixel_values"]
        sides = pixels_BCHW.shape[-2:]
        box = []
        for side, length in zip(sides, _lengths(sides, share), strict=True):
            start = int(rng.integers(side)) - length // 2
            box.append(slice(max(0, start), min(side, start + length)))
        return _pasted(batch, pixels_BCHW[partners][:, :, box[0], box[1]], box, partners)


@configclass
class ResizeMix(MixingOperation):
    """Put the whole of another image, shrunk, in a box of each image (arXiv:2012.11101)."""

    alpha: Annotated[float, between(0, 100)] = 1.0
    """A row's own share of the area is drawn from Beta(alpha, alpha); the paper draws the box's side instead, from 0.1
    to 0.8 of the image's. 0: off."""
    p: Probability = 1.0
    """Probability that the rows of a forward pass are mixed."""

    def mix(self, batch: Batch, share: float, partners: np.ndarray, rng: np.random.Generator) -> Batch:
        """One box for all rows, wholly inside the image."""
        from torch.nn.functional import interpolate

        pixels_BCHW = batch["pixel_values"]
        sides = pixels_BCHW.shape[-2:]
        lengths = _lengths(sides, share)
        if 0 in lengths:
            return batch
        starts = [int(rng.integers(side - length + 1)) for side, length in zip(sides, lengths, strict=True)]
        box = [slice(start, start + length) for start, length in zip(starts, lengths, strict=True)]
        shrunk = interpolate(pixels_BCHW[partners], lengths, mode="bilinear", antialias=True)
        return _pasted(batch, shrunk, box, partners)


Mixing = Mixup | CutMix | ResizeMix


def _lengths(sides: tuple[int, ...], share: float) -> list[int]:
    """Height and width of a box that leaves this share of the area."""
    return [round(side * math.sqrt(1 - share)) for side in sides]


def _pasted(batch: Batch, part_BCHW: torch.Tensor, box: list[slice], partners: np.ndarray) -> Batch:
    """The batch with a part of the partners in the box."""
    if part_BCHW.numel() == 0:
        return batch
    pixels_BCHW = batch["pixel_values"].clone()
    pixels_BCHW[:, :, box[0], box[1]] = part_BCHW
    share = 1 - part_BCHW[0, 0].numel() / pixels_BCHW[0, 0].numel()
    return _with_shares({**batch, "pixel_values": pixels_BCHW}, share, partners)


def _united(batch: Batch, share: float, partners: np.ndarray) -> Batch:
    """Mask and token types of texts whose word embeddings are mixed: of all places where one of the two has a token.

    The types are those of the row with the larger share, and behind its end those of the other.
    """
    own: Batch = {name: batch[name] for name in ("attention_mask", "token_type_ids") if name in batch}
    partner = {name: x_BT[partners] for name, x_BT in own.items()}
    larger, smaller = (own, partner) if share >= 0.5 else (partner, own)
    # A text without a share is not to be seen by its length either; without a mask all are of one length.
    if share in (0, 1) or "attention_mask" not in own:
        return larger
    mask_BT, other_BT = larger["attention_mask"], smaller["attention_mask"]
    united = {"attention_mask": mask_BT | other_BT}
    if "token_type_ids" in own:
        united["token_type_ids"] = larger["token_type_ids"].where(mask_BT == 1, smaller["token_type_ids"])
    return united


def _with_shares(batch: Batch, share: float, partners: np.ndarray) -> Batch:
    """The batch with each row's own share, shape (B,), and its partner, shape (B,)."""
    import torch

    return {
        **batch,
        "partners": torch.from_numpy(partners),
        "shares": torch.full((len(partners),), share, dtype=torch.float32),
    }
