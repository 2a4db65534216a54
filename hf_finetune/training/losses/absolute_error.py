"""Absolute error of numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hf_finetune.data.config import TaskName
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    import torch


@configclass
class AbsoluteError:
    """Absolute difference of prediction and target, in units of the target's deviation (regression): outliers count
    less, and the median is learned."""

    task: ClassVar[TaskName] = "regression"

    def __call__(self, logits_BT: torch.Tensor, labels_BT: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
        """Return the loss of each row, shape (B,): the mean over its targets."""
        return (logits_BT.float() - labels_BT.float()).abs().mean(-1)
