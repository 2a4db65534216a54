"""A run whose loss is not a number stops, and saves nothing."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from hf_finetune.errors import TrainingError

NOT_FINITE = (
    "the loss is not a number (or infinite): lower train.learning_rate, use --mixed-precision no, or look at the data"
)


class NanGuard:
    """Remembers on the device whether every loss so far was finite: nobody waits for the device until it is asked.

    Args:
        device: where the losses are.
        processes: of the run.
    """

    def __init__(self, device: torch.device, processes: int) -> None:
        self.processes = processes
        self._all_finite = torch.tensor(True, device=device)

    def note(self, loss: torch.Tensor) -> None:
        """Take in the loss of a micro-batch."""
        self._all_finite &= torch.isfinite(loss)

    def check(self, step: int) -> None:
        """Called by all processes at the same points: each of them stops, whichever met the loss.

        Raises:
            TrainingError: a loss was not finite.
        """
        if self.processes > 1:
            finite = self._all_finite.float()
            torch.distributed.all_reduce(finite, torch.distributed.ReduceOp.MIN)
            self._all_finite = finite.bool()
        if not self._all_finite:
            raise TrainingError(f"step {step}: {NOT_FINITE}")


def check_logits(logits: np.ndarray, step: int) -> None:
    """Refuse outputs that are no numbers.

    Raises:
        TrainingError: some are not finite.
    """
    if not np.isfinite(logits).all():
        raise TrainingError(f"step {step}: the model's outputs are not numbers; {NOT_FINITE}")


def check_weights(parameters: Iterable[nn.Parameter]) -> None:
    """Refuse weights that are no numbers, among those that train.

    Raises:
        TrainingError: some are not finite.
    """
    if not all(bool(torch.isfinite(p).all()) for p in parameters if p.requires_grad):
        raise TrainingError(f"after the last step some weights are not finite; {NOT_FINITE}")
