"""Loss of ordered classes: is each level exceeded?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hf_finetune.data.config import TaskName
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    import torch


@configclass
class Coral:
    """CORAL (arXiv:1901.07884): binary cross-entropy of whether each level but the highest is exceeded, summed over
    these levels (ordinal). A wrong level costs more the farther it is off."""

    task: ClassVar[TaskName] = "ordinal"

    def __call__(self, logits_BC: torch.Tensor, labels_B: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
        """Return the loss of each row, shape (B,), in nats, see `RowLosses`.

        The probability of exceeding a level is the sum of those of the levels above it, by softmax. So no level is
        exceeded more surely than a lower one, for which the paper shares a weight vector among the levels, and the
        logits are those of a stock class.
        """
        import torch

        from hf_finetune.training.losses.targets import target_distribution

        log_p_BC = torch.log_softmax(logits_BC.float(), dim=-1)
        target_BC = target_distribution(labels_B, logits_BC.shape[1], label_smoothing)
        below_BC = log_p_BC.logcumsumexp(-1)[:, :-1]
        above_BC = log_p_BC.flip(-1).logcumsumexp(-1).flip(-1)[:, 1:]
        is_below_BC = target_BC.cumsum(-1)[:, :-1]
        is_above_BC = target_BC.flip(-1).cumsum(-1).flip(-1)[:, 1:]
        return -(is_below_BC * below_BC + is_above_BC * above_BC).sum(-1)
