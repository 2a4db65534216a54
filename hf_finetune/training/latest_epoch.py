"""Choose the latest epoch that is not shown to be worse than the best one.

Among a few hundred validation rows the best epoch is mostly a matter of luck, and longer training is mostly better: see
docs/benchmarks.md#few-labels.

Legend: N rows, C classes.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import nn
from transformers import TrainerState

from hf_finetune.training.hooks import Hook

FILE = "best_validation.npz"


class LatestEpoch(Hook):
    """Remembers the validation logits of the best epoch, with which later ones are compared.

    Args:
        is_worse: whether logits (N, C) are worse than others by a paired test on the validation rows.
        greater_is_better: whether a greater metric is better.
    """

    def __init__(self, is_worse: Callable[[np.ndarray, np.ndarray], bool], *, greater_is_better: bool) -> None:
        self.is_worse, self.sign = is_worse, 1 if greater_is_better else -1
        self.best: tuple[float, np.ndarray] | None = None

    def takes(self, metric: float, logits_NC: np.ndarray) -> bool:
        """Return whether this epoch takes the place of the chosen one before."""
        if self.best is None or self.sign * metric > self.sign * self.best[0]:
            self.best = metric, logits_NC
            return True
        return not self.is_worse(logits_NC, self.best[1])

    def on_save(self, model: nn.Module, state: TrainerState, checkpoint: Path) -> None:
        """Write the logits of the best epoch."""
        if self.best is not None:
            np.savez(checkpoint / FILE, metric=self.best[0], logits=self.best[1])

    def on_resume(self, model: nn.Module, checkpoint: Path) -> None:
        """Read them."""
        if (checkpoint / FILE).exists():
            with np.load(checkpoint / FILE) as stored:
                self.best = float(stored["metric"]), stored["logits"]
