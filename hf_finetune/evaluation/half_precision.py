"""Logits in bfloat16, and in float32 where bfloat16 could change the predicted class or tags.

Legend: N rows, C classes or tags.
"""

import copy
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.utils.data import Subset

from hf_finetune.data.config import Activation
from hf_finetune.evaluation.logits import Collate, Indexed, predict_logits
from hf_finetune.evaluation.metrics import activate

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
    and any other is a bound: a row with a smaller margin may have another class in float32. Of tags it is the largest
    change of a logit, and the margin is the distance to the logit from which the tag is predicted. With `rescore`, such
    rows are computed in float32, too, and update the bound.

    Args:
        model: with float32 weights.
        collate, batch_size, tokens: see `predict_logits`.
        rescore: return float32 logits for uncertain rows.
        cuts_C: logit from which each tag is predicted. None: the class of the largest logit is.
    """

    def __init__(
        self,
        model: nn.Module,
        collate: Collate,
        *,
        batch_size: int | None,
        tokens: int | None,
        rescore: bool,
        cuts_C: np.ndarray | None = None,
    ) -> None:
        self.exact, self.half, self.cuts_C = model, half_copy(model), cuts_C
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
            decided = self._decided(logits_NC[sample])
            replace(sample)
            self.sampled = len(sample)
            self.agreed = int((self._decided(logits_NC[sample]) == decided).all(-1).sum())
        while self.rescore and (self.cuts_C is not None or logits_NC.shape[1] > 1):
            # Repeated, as each comparison may raise the bound.
            uncertain = np.flatnonzero(~exact_N & (self._margins(logits_NC) < SAFETY * self.largest_error))
            if len(uncertain) == 0:
                break
            replace(uncertain)
            self.rescored += len(uncertain)
        self.rows += len(rows)
        return logits_NC

    def _compare(self, half_SC: np.ndarray, exact_SC: np.ndarray) -> None:
        error_SC = half_SC - exact_SC
        if self.cuts_C is None:
            error_SC = np.take_along_axis(error_SC, half_SC.argmax(-1)[:, None], axis=-1) - error_SC
        self.largest_error = max(self.largest_error, float(np.abs(error_SC).max()))
        activation: Activation = "softmax" if self.cuts_C is None else "sigmoid"
        half_p_SC, exact_p_SC = (activate(logits_SC, activation) for logits_SC in (half_SC, exact_SC))
        self.largest_difference = max(self.largest_difference, float(np.abs(half_p_SC - exact_p_SC).max()))
        self.compared += len(half_SC)

    def _decided(self, logits_NC: np.ndarray) -> np.ndarray:
        """Return the class of each row, shape (N, 1), or whether it has each tag, shape (N, C)."""
        return logits_NC.argmax(-1)[:, None] if self.cuts_C is None else logits_NC >= self.cuts_C

    def _margins(self, logits_NC: np.ndarray) -> np.ndarray:
        """Return how far each row is from another prediction, shape (N,)."""
        if self.cuts_C is not None:
            return np.abs(logits_NC - self.cuts_C).min(axis=-1)
        sorted_NC = np.sort(logits_NC, axis=-1)
        return sorted_NC[:, -1] - sorted_NC[:, -2]

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
