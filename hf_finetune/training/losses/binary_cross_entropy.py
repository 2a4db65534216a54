"""Binary cross-entropy of tags."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hf_finetune.data.config import TaskName
from hf_finetune.utils.config import Positive, configclass

if TYPE_CHECKING:
    import torch


@configclass
class BinaryCrossEntropy:
    """Cross-entropy of each tag against its absence, summed over the tags (multi-label)."""

    task: ClassVar[TaskName] = "multi-label"
    positive_weight: Positive = 1.0
    """Weight of the tags that a row has, relative to those that it lacks. Above 1: more tags are predicted."""

    def __call__(
        self,
        logits_BC: torch.Tensor,
        labels_BC: torch.Tensor,
        label_smoothing: float = 0.0,
        weights_C: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the loss of each row, shape (B,), in nats.

        Args:
            labels_BC: a 0 or 1 for each tag; the loss is linear in shares between.
            label_smoothing: share of each target that is moved to 1/2.
            weights_C: weight of each tag where a row has it, on top of `positive_weight`. None: all 1.
        """
        from torch.nn import functional as F

        logits_BC = logits_BC.float()
        targets_BC = labels_BC.float() * (1 - label_smoothing) + label_smoothing / 2
        weight = logits_BC.new_tensor(self.positive_weight)
        weight = weight if weights_C is None else weight * weights_C.to(weight)
        return F.binary_cross_entropy_with_logits(logits_BC, targets_BC, reduction="none", pos_weight=weight).sum(-1)
