"""Huber loss of numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hf_finetune.data.config import TaskName
from hf_finetune.utils.config import Positive, configclass

if TYPE_CHECKING:
    import torch


@configclass
class Huber:
    """Half the squared error of small differences, and an absolute error beyond them (regression; Huber 1964, "Robust
    estimation of a location parameter")."""

    task: ClassVar[TaskName] = "regression"
    delta: Positive = 1.0
    """Difference at which the loss turns from squared to absolute, in units of the target's deviation."""

    def __call__(self, logits_BT: torch.Tensor, labels_BT: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
        """Return the loss of each row, shape (B,): the mean over its targets."""
        from torch.nn import functional as F

        return F.huber_loss(logits_BT.float(), labels_BT.float(), reduction="none", delta=self.delta).mean(-1)
