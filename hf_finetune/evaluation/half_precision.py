"""Logits in bfloat16, and in float32 where bfloat16 could have named another class.

Legend: N rows, C classes.
"""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.utils.data import Subset

from hf_finetune.evaluation.logits import Collate, Indexed, predict_logits
from hf_finetune.evaluation.metrics import softmax

# A row is in doubt while its margin is below this many times the largest error that was seen in any row's margins.
SAFETY = 2.0
# Rows of the first part, spread over all lengths, on which the two formats are compared; four times as many where
# nothing is computed again and this is all that is known.
COMPARED = 64


def half_copy(model: nn.Module) -> nn.Module | None:
    """The model with bfloat16 weights, a quarter faster than autocast, which casts them anew for every batch.

    Buffers stay as they are: rotary frequencies lose their sense in bfloat16. None where that cannot be computed:
    BatchNorm wants weights and statistics of one format.
    """
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
        return None
    # deepcopy takes what the memo already has: the float32 weights are never copied.
    memo = {
        id(p): nn.Parameter(p.detach().to(torch.bfloat16) if p.is_floating_point() else p.detach(), requires_grad=False)
        for p in model.parameters()
    }
    return copy.deepcopy(model, memo)


class HalfPrecision:
    """Scores parts of a data set in bfloat16.

    On the first part the two formats are compared: how far bfloat16 moves the difference between a row's best class and
    any other bounds the margin below which a label may be another in float32. With `rescore` such rows are computed
    again, and compared in turn.

    Args:
        model: with float32 weights.
        collate, batch_size, tokens: as in `predict_logits`.
        rescore: give float32's logits for rows in doubt.
    """

    def __init__(
        self, model: nn.Module, collate: Collate, *, batch_size: int | None, tokens: int | None, rescore: bool
    ) -> None:
        self.exact, self.half = model, half_copy(model)
        self._predict = partial(predict_logits, collate=collate, batch_size=batch_size, tokens=tokens)
        self.rescore = rescore
        self.rows, self.compared, self.rescored, self.sampled, self.agreed = 0, 0, 0, 0, 0
        self.largest_error, self.largest_difference = 0.0, 0.0

    def logits(self, rows: Indexed, lengths: np.ndarray | None) -> np.ndarray:
        """Shape (N, C), float32, in row order; arguments as in `predict_logits`."""
        model, autocast = (self.exact, torch.bfloat16) if self.half is None else (self.half, None)
        logits_NC = self._predict(model, rows, lengths=lengths, autocast=autocast)
        known_N = np.zeros(len(rows), dtype=bool)

        def replace(chosen: np.ndarray) -> None:
            part = None if lengths is None else lengths[chosen]
            exact_SC = self._predict(self.exact, Subset(rows, chosen.tolist()), lengths=part)
            self._compare(logits_NC[chosen], exact_SC)
            logits_NC[chosen], known_N[chosen] = exact_SC, True

        if self.compared == 0:
            order = np.arange(len(rows)) if lengths is None else np.argsort(lengths, kind="stable")
            size = min(COMPARED if self.rescore else 4 * COMPARED, len(rows))
            sample = np.sort(order[np.linspace(0, len(rows) - 1, size).astype(int)])
            labels = logits_NC[sample].argmax(-1)
            replace(sample)
            self.sampled, self.agreed = len(sample), int((logits_NC[sample].argmax(-1) == labels).sum())
        while self.rescore and logits_NC.shape[1] > 1:
            # Again when a compared row showed a larger error: rows that had seemed certain may no longer be.
            best_NC = np.sort(logits_NC, axis=-1)
            doubt = np.flatnonzero(~known_N & (best_NC[:, -1] - best_NC[:, -2] < SAFETY * self.largest_error))
            if len(doubt) == 0:
                break
            replace(doubt)
            self.rescored += len(doubt)
        self.rows += len(rows)
        return logits_NC

    def _compare(self, half_SC: np.ndarray, exact_SC: np.ndarray) -> None:
        error_SC = half_SC - exact_SC
        of_best_S1 = np.take_along_axis(error_SC, half_SC.argmax(-1)[:, None], axis=-1)
        self.largest_error = max(self.largest_error, float(np.abs(of_best_S1 - error_SC).max()))
        difference = float(np.abs(softmax(half_SC) - softmax(exact_SC)).max())
        self.largest_difference = max(self.largest_difference, difference)
        self.compared += len(half_SC)

    def report(self) -> dict[str, str | float]:
        """What was computed how, and how far it is from float32 on the rows that were computed in both."""
        return {
            "format": "bf16",
            "rows": self.rows,
            "rows_in_float32": self.rescored,
            "rows_compared": self.compared,
            "label_agreement": round(self.agreed / max(1, self.sampled), 4),
            "rows_of_label_agreement": self.sampled,
            "largest_probability_difference": round(self.largest_difference, 4),
        }
