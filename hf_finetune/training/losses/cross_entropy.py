"""Cross-entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hf_finetune.data.config import TaskName
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    import torch


@configclass
class CrossEntropy:
    """Negative logarithm of the label's probability."""

    task: ClassVar[TaskName] = "single-label"

    def __call__(self, logits_BC: torch.Tensor, labels_B: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
        """Return the loss of each row, see `RowLosses`; label smoothing as in `smoothed`."""
        from torch.nn import functional as F

        from hf_finetune.training.losses.targets import smoothed

        if labels_B.dim() == 2:
            return -(smoothed(labels_B, label_smoothing) * F.log_softmax(logits_BC.float(), dim=-1)).sum(-1)
        return F.cross_entropy(logits_BC.float(), labels_B, reduction="none", label_smoothing=label_smoothing)
