"""Stops a run whose loss, outputs or weights are not finite, and saves nothing of it."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from hf_finetune.errors import TrainingError

REMEDY = "lower train.learning_rate, use --mixed-precision no, or look at the data"


class NanGuard:
    """Tracks on the device whether every loss so far was finite. Only `check` waits for the device.

    Args:
        device: device of the losses.
        processes: number of processes of the run.
    """

    def __init__(self, device: torch.device, processes: int) -> None:
        self.processes = processes
        self._all_finite = torch.tensor(True, device=device)

    def note(self, loss: torch.Tensor) -> None:
        """Record the loss of a micro-batch."""
        self._all_finite &= torch.isfinite(loss)

    def check(self, step: int) -> None:
        """Stop if a loss was not finite in any process. All processes call this at the same points.

        Raises:
            TrainingError: a loss was not finite.
        """
        if self.processes > 1:
            finite = self._all_finite.float()
            torch.distributed.all_reduce(finite, torch.distributed.ReduceOp.MIN)
            self._all_finite = finite.bool()
        if not self._all_finite:
            raise TrainingError(f"step {step}: the loss is not a number (or infinite): {REMEDY}")


def check_logits(logits: np.ndarray, step: int) -> None:
    """Refuse logits that are not finite.

    Raises:
        TrainingError: some are not.
    """
    if not np.isfinite(logits).all():
        raise TrainingError(f"step {step}: the model's outputs are not finite: {REMEDY}")


def check_weights(parameters: Iterable[nn.Parameter]) -> None:
    """Refuse trained weights that are not finite.

    Raises:
        TrainingError: some are not.
    """
    if not all(bool(torch.isfinite(p).all()) for p in parameters if p.requires_grad):
        raise TrainingError(f"after the last step some weights are not finite: {REMEDY}")
