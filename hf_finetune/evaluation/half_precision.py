"""Logits in bfloat16, and in float32 where bfloat16 could change the predicted class.

Legend: N rows, C classes.
"""

import copy
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.utils.data import Subset

from hf_finetune.evaluation.logits import Collate, Indexed, predict_logits
from hf_finetune.evaluation.metrics import softmax

# A row is uncertain if its margin is below this multiple of the largest error of any margin so far.
SAFETY = 2.0
# Rows of the first part, of all lengths, on which the two formats are compared; four times as many without rescoring.
COMPARED = 64


def half_copy(model: nn.Module) -> nn.Module | None:
    """Copy the model with bfloat16 weights, or return None for a model with BatchNorm, which needs float32.

    A quarter faster than autocast, which casts the weights for every batch. Buffers stay in float32, as bfloat16 is too
    coarse for rotary frequencies.
    """
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
        return None
    # deepcopy takes the parameters from the memo, so the float32 weights are not copied.
    memo = {
        id(p): nn.Parameter(p.detach().to(torch.bfloat16) if p.is_floating_point() else p.detach(), requires_grad=False)
        for p in model.parameters()
    }
    return copy.deepcopy(model, memo)


class HalfPrecision:
    """Compute logits in bfloat16, one part of a data set after another.

    Both formats are compared on rows of the first part. The largest change of the difference between a row's best class
    and any other is a bound: a row with a smaller margin may have another class in float32. With `rescore`, such rows
    are computed in float32, too, and update the bound.

    Args:
        model: with float32 weights.
        collate, batch_size, tokens: see `predict_logits`.
        rescore: return float32 logits for uncertain rows.
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
        """Return logits (N, C), float32, in row order; for the arguments see `predict_logits`."""
        model, autocast = (self.exact, torch.bfloat16) if self.half is None else (self.half, None)
        logits_NC = self._predict(model, rows, lengths=lengths, autocast=autocast)
        exact_N = np.zeros(len(rows), dtype=bool)

        def replace(chosen: np.ndarray) -> None:
            part = None if lengths is None else lengths[chosen]
            exact_SC = self._predict(self.exact, Subset(rows, chosen.tolist()), lengths=part)
            self._compare(logits_NC[chosen], exact_SC)
            logits_NC[chosen], exact_N[chosen] = exact_SC, True

        if self.compared == 0:
            order = np.arange(len(rows)) if lengths is None else np.argsort(lengths, kind="stable")
            size = min(COMPARED if self.rescore else 4 * COMPARED, len(rows))
            sample = np.sort(order[np.linspace(0, len(rows) - 1, size).astype(int)])
            labels = logits_NC[sample].argmax(-1)
            replace(sample)
            self.sampled, self.agreed = len(sample), int((logits_NC[sample].argmax(-1) == labels).sum())
        while self.rescore and logits_NC.shape[1] > 1:
            # Repeated, as each comparison may raise the bound.
            sorted_NC = np.sort(logits_NC, axis=-1)
            uncertain = np.flatnonzero(~exact_N & (sorted_NC[:, -1] - sorted_NC[:, -2] < SAFETY * self.largest_error))
            if len(uncertain) == 0:
                break
            replace(uncertain)
            self.rescored += len(uncertain)
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
        """Return the rows computed in each format, and their differences, as in result.json."""
        return {
            "format": "bf16",
            "rows": self.rows,
            "rows_in_float32": self.rescored,
            "rows_compared": self.compared,
            "label_agreement": round(self.agreed / max(1, self.sampled), 4),
            "rows_of_label_agreement": self.sampled,
            "largest_probability_difference": round(self.largest_difference, 4),
        }
