"""Test-time augmentation: rows to be predicted or scored, as they are and as operations change them.

Operations see neither classes nor the training rows here: a row's class is what is to be predicted.

Legend: B rows, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from hf_finetune.augmentation.compose import Augmentation, Phases, Sometimes, check_kind, walk
from hf_finetune.augmentation.generative.base import GenerativeOperation
from hf_finetune.augmentation.operations import ImageBatch, TextBatch, apply, generators
from hf_finetune.augmentation.text.sentences import MixHalves
from hf_finetune.errors import InputError
from hf_finetune.utils.plain import short_repr, to_plain

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SeveralViews:
    """How often a row is seen, and what makes the difference.

    Raises:
        InputError: fewer than two views, a seed below 0, no operations, or operations that need more than the row
            itself: the training rows and the row's class, the course of a training, or a language model.
    """

    operations: tuple[Augmentation, ...]
    number: int
    """Views of a row; the first is the row as it is."""
    seed: int = 0
    """View v of a row depends on this, on the row's place in the source, and on v alone."""

    def __post_init__(self) -> None:
        if self.number < 2:
            raise InputError(
                f"--views {self.number}: expected at least 2, the row as it is and one that --augment changed"
            )
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: expected at least 0")
        if not self.operations:
            raise InputError("--augment []: expected at least one operation, such as [Flip]")
        for operation in walk(self.operations):
            match operation:
                case MixHalves() | Sometimes(by_class="rare"):
                    raise InputError(
                        f"--augment: {short_repr(operation)} needs the training rows and the classes of rows, which "
                        "are not there; expected operations on a row alone"
                    )
                case Phases():
                    raise InputError(
                        "--augment: Phases is for training, which has a first step and a last one; expected the "
                        "operations of one phase"
                    )
                case GenerativeOperation():
                    raise InputError(
                        f"--augment: {type(operation).__name__} asks a language model, which takes far longer than the "
                        "classifier itself; it is for data.augment_copies: leave it out here"
                    )

    def check(self, kind: Literal["text", "image"]) -> None:
        """Refuse operations on images for a classifier of texts, and the other way round.

        Raises:
            InputError: naming the operation.
        """
        with _named_by_the_flag():
            check_kind(self.operations, kind)

    def texts(self, raw: dict[str, list], rows: Sequence[int], view: int) -> dict[str, list]:
        """Rows of texts in view number `view`: `text`, and `text_pair` where there is one.

        Args:
            raw: these columns, and perhaps others.
            rows: their places in the source.

        Raises:
            InputError: an operation leaves nothing of a text.
        """
        batch = TextBatch(raw["text"], raw.get("text_pair"))
        with _named_by_the_flag():
            return apply(self.operations, batch, generators(self.seed, rows, 0, view)).columns()

    def pixels(self, pixels_BCHW: torch.Tensor, rows: Sequence[int], view: int) -> torch.Tensor:
        """Images in view number `view`, shape (B, 3, H, W), uint8; see `texts`."""
        return apply(self.operations, ImageBatch(pixels_BCHW), generators(self.seed, rows, 0, view)).pixels

    def to_dict(self) -> dict[str, Any]:
        """{"number", "augment", "seed"}, in plain values."""
        augment = [{"type": type(o).__name__, **to_plain(o)} for o in self.operations]
        return {"number": self.number, "augment": augment, "seed": self.seed}


@contextmanager
def _named_by_the_flag() -> Iterator[None]:
    """Errors name the flag in place of the recipe's field."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace("data.augment:", "--augment:", 1)) from None
