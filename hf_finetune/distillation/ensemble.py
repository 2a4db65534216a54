"""The predictions of several teachers together.

Legend: N rows, B rows of a batch, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hf_finetune.distillation.logit_cache import Logits
from hf_finetune.evaluation.metrics import softmax
from hf_finetune.evaluation.test_time import mean_probabilities


def mean_logits(logits: Sequence[np.ndarray]) -> np.ndarray:
    """Compute logarithms of the arithmetic mean of several teachers' probabilities (an ensemble as in
    arXiv:1503.02531).

    Args:
        logits: of the same rows, each of shape (N, C).

    Returns:
        Shape (N, C), float32: normalized, so that their softmax is the mean itself.
    """
    mean_NC = mean_probabilities(softmax(logits_NC) for logits_NC in logits)
    # A class that float64 cannot tell from impossible.
    return np.log(np.maximum(mean_NC, np.finfo(np.float64).tiny)).astype(np.float32)


@dataclass(frozen=True)
class EnsembleLogits:
    """`mean_logits` of rows as they are read, see `logit_cache.Logits`."""

    members: Sequence[Logits]

    def __len__(self) -> int:
        return len(self.members[0])

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        """Return the logits (B, C), float32, of the rows of these numbers."""
        return mean_logits([member[rows] for member in self.members])
