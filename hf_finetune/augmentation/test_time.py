"""Test-time augmentation: several views of each row to predict.

Operations get neither labels nor training rows here.

Legend: B rows, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_finetune.augmentation.compose import Augmentation, Phases, Sometimes, check_kind, walk
from hf_finetune.augmentation.generative.base import GenerativeOperation
from hf_finetune.augmentation.operations import ImageBatch, TextBatch, apply, generators
from hf_finetune.augmentation.text.sentences import MixHalves
from hf_finetune.augmentation.text.sequences import ReverseComplement
from hf_finetune.data.config import Kind
from hf_finetune.errors import InputError
from hf_finetune.utils.plain import short_repr, to_plain
from hf_finetune.utils.sequences import SequenceKind

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SeveralViews:
    """The views of each row: the row itself, and augmented copies.

    Raises:
        InputError: fewer than two views, a negative seed, no operations, or an operation that needs more than the row
            itself: training rows and the row's class, the progress of training, or a language model.
    """

    operations: tuple[Augmentation, ...]
    number: int
    """Views of each row; the first is the row itself."""
    seed: int = 0
    """View v of a row depends on the seed, the row's index in the source, and v alone."""

    def __post_init__(self) -> None:
        if self.number < 2:
            raise InputError(f"--views {self.number}: expected at least 2, the row itself and an augmented copy")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: expected at least 0")
        if not self.operations:
            raise InputError("--augment []: expected at least one operation, such as [Flip]")
        for operation in walk(self.operations):
            match operation:
                case MixHalves() | Sometimes(by_class="rare"):
                    raise InputError(
                        f"--augment: {short_repr(operation)} needs the training rows and the classes of rows, which "
                        "prediction does not have; expected operations on a row alone"
                    )
                case Phases():
                    raise InputError(
                        "--augment: Phases is for training, as it follows its steps; expected "
                        "the operations of one phase"
                    )
                case GenerativeOperation():
                    raise InputError(
                        f"--augment: {type(operation).__name__} runs a language model, which takes far longer than the "
                        "classifier itself; it is for data.augment_copies: leave it out here"
                    )

    def check(self, kind: Kind, sequence: SequenceKind | None = None) -> None:
        """Refuse operations for other data than the classifier's.

        Raises:
            InputError: naming the operation.
        """
        with _errors_name_the_flag():
            check_kind(self.operations, kind, sequence=sequence)

    def texts(self, raw: dict[str, list], rows: Sequence[int], view: int) -> dict[str, list]:
        """Return view number `view` of rows of texts: `text` and, for pairs, `text_pair`.

        Args:
            raw: these columns, and perhaps others.
            rows: indices of the rows in the source.

        Raises:
            InputError: an operation returns an empty text.
        """
        batch = TextBatch(raw["text"], raw.get("text_pair"))
        with _errors_name_the_flag():
            return apply(self.operations, batch, generators(self.seed, rows, 0, view)).columns()

    def pixels(self, pixels_BCHW: torch.Tensor, rows: Sequence[int], view: int) -> torch.Tensor:
        """Return view number `view` of images, shape (B, 3, H, W), uint8; like `texts`."""
        return apply(self.operations, ImageBatch(pixels_BCHW), generators(self.seed, rows, 0, view)).pixels

    def to_dict(self) -> dict[str, Any]:
        """Return {"number", "augment", "seed"} in JSON types."""
        augment = [{"type": type(o).__name__, **to_plain(o)} for o in self.operations]
        return {"number": self.number, "augment": augment, "seed": self.seed}


BOTH_STRANDS = SeveralViews((ReverseComplement(p=1.0),), 2)
"""A sequence of DNA or RNA, and its reverse complement."""


@contextmanager
def _errors_name_the_flag() -> Iterator[None]:
    """Name the flag instead of the recipe field in errors."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace("data.augment:", "--augment:", 1)) from None
