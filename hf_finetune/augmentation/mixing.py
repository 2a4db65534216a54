"""Mixing of the rows of a batch (Mixup, CutMix, ResizeMix): the members of `objective.mix`, cheap to import.

An operation is a frozen dataclass with `__call__(batch, rng) -> batch`, on the tensors of one forward pass. Each row
keeps a share of itself and takes the rest from a partner row. The output has `partners` and `shares` in addition to the
unchanged `labels`; `training.input_mixing` makes soft labels of the three. A batch of one row, and any batch at p 0 or
alpha 0, is returned unchanged.

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
    """Mixes each row of a forward pass with a partner row."""

    alpha: float
    p: Probability
    mixes_texts: ClassVar[bool] = False
    """Whether it mixes texts as well as images."""

    def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Mix the batch with probability `p`."""
        rows = len(batch["labels"])
        if rows < 2 or self.alpha == 0 or rng.random() >= self.p:
            return batch
        # Rounded like `shares`, so that every consumer agrees on a share of exactly 0 or 1.
        share = float(np.float32(rng.beta(self.alpha, self.alpha)))
        return self.mix(batch, share, rng.permutation(rows), rng)

    @abstractmethod
    def mix(self, batch: Batch, share: float, partners: np.ndarray, rng: np.random.Generator) -> Batch:
        """Mix each row with its partner; the row keeps `share` of itself."""


@configclass
class Mixup(MixingOperation):
    """Blend each row with another: images pixel by pixel (arXiv:1710.09412), texts word embedding by word embedding
    (arXiv:1905.08941)."""

    alpha: Annotated[float, between(0, 100)] = 0.2
    """The share of a row is drawn from Beta(alpha, alpha): uniform at 1; towards 0 one of the two rows dominates.
    0: off."""
    p: Probability = 1.0
    """Probability of each forward pass."""
    mixes_texts: ClassVar[bool] = True

    def mix(self, batch: Batch, share: float, partners: np.ndarray, rng: np.random.Generator) -> Batch:
        """Blend images; of texts only combine masks and token types: `training.input_mixing` mixes their word
        embeddings."""
        if "pixel_values" not in batch:
            return _with_shares({**batch, **_union_of_tokens(batch, share, partners)}, share, partners)
        pixels_BCHW = batch["pixel_values"]
        blended = share * pixels_BCHW + (1 - share) * pixels_BCHW[partners]
        return _with_shares({**batch, "pixel_values": blended}, share, partners)


@configclass
class CutMix(MixingOperation):
    """Paste a box of another image at the same place of each image (arXiv:1905.04899)."""

    alpha: Annotated[float, between(0, 100)] = 1.0
    """The share of a row is drawn from Beta(alpha, alpha), and corrected for the part of the box outside the image.
    0: off."""
    p: Probability = 1.0
    """Probability of each forward pass."""

    def mix(self, batch: Batch, share: float, partners: np.ndarray, rng: np.random.Generator) -> Batch:
        """Paste one box, centered anywhere in the image, for all rows."""
        pixels_BCHW = batch["pixel_values"]
        sides = pixels_BCHW.shape[-2:]
        box = []
        for side, length in zip(sides, _lengths(sides, share), strict=True):
            start = int(rng.integers(side)) - length // 2
            box.append(slice(max(0, start), min(side, start + length)))
        return _paste(batch, pixels_BCHW[partners][:, :, box[0], box[1]], box, partners)


@configclass
class ResizeMix(MixingOperation):
    """Paste another image, shrunk, into a box of each image (arXiv:2012.11101)."""

    alpha: Annotated[float, between(0, 100)] = 1.0
    """The share of a row is drawn from Beta(alpha, alpha); the paper draws the side of the box instead, from 0.1 to 0.8
    of the image's. 0: off."""
    p: Probability = 1.0
    """Probability of each forward pass."""

    def mix(self, batch: Batch, share: float, partners: np.ndarray, rng: np.random.Generator) -> Batch:
        """Paste into one box, entirely inside the image, for all rows."""
        from torch.nn.functional import interpolate

        pixels_BCHW = batch["pixel_values"]
        sides = pixels_BCHW.shape[-2:]
        lengths = _lengths(sides, share)
        if 0 in lengths:
            return batch
        starts = [int(rng.integers(side - length + 1)) for side, length in zip(sides, lengths, strict=True)]
        box = [slice(start, start + length) for start, length in zip(starts, lengths, strict=True)]
        shrunk = interpolate(pixels_BCHW[partners], lengths, mode="bilinear", antialias=True)
        return _paste(batch, shrunk, box, partners)


Mixing = Mixup | CutMix | ResizeMix


def _lengths(sides: tuple[int, ...], share: float) -> list[int]:
    """Return height and width of a box that leaves this share of the image's area."""
    return [round(side * math.sqrt(1 - share)) for side in sides]


def _paste(batch: Batch, part_BCHW: torch.Tensor, box: list[slice], partners: np.ndarray) -> Batch:
    """Paste pixels of the partners into the box."""
    if part_BCHW.numel() == 0:
        return batch
    pixels_BCHW = batch["pixel_values"].clone()
    pixels_BCHW[:, :, box[0], box[1]] = part_BCHW
    share = 1 - part_BCHW[0, 0].numel() / pixels_BCHW[0, 0].numel()
    return _with_shares({**batch, "pixel_values": pixels_BCHW}, share, partners)


def _union_of_tokens(batch: Batch, share: float, partners: np.ndarray) -> Batch:
    """Return attention mask and token types of mixed texts, for all positions where either row has a token.

    Token types are those of the row with the larger share, and past its end those of the other row.
    """
    own: Batch = {name: batch[name] for name in ("attention_mask", "token_type_ids") if name in batch}
    partner = {name: x_BT[partners] for name, x_BT in own.items()}
    larger, smaller = (own, partner) if share >= 0.5 else (partner, own)
    # A text without a share must not show by its length either; without a mask all texts have one length.
    if share in (0, 1) or "attention_mask" not in own:
        return larger
    mask_BT, other_BT = larger["attention_mask"], smaller["attention_mask"]
    united = {"attention_mask": mask_BT | other_BT}
    if "token_type_ids" in own:
        united["token_type_ids"] = larger["token_type_ids"].where(mask_BT == 1, smaller["token_type_ids"])
    return united


def _with_shares(batch: Batch, share: float, partners: np.ndarray) -> Batch:
    """Add each row's partner and share, both of shape (B,)."""
    import torch

    return {
        **batch,
        "partners": torch.from_numpy(partners),
        "shares": torch.full((len(partners),), share, dtype=torch.float32),
    }
