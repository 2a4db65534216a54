"""A number of neurons for each layer, searched under a limit of measured time.

Legend: L layers, K widths from the full one down.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from hf_finetune.compression.calibration import Batch, calibration_batches, logits_of
from hf_finetune.compression.pruning.feed_forward import PruneFeedForward, widths_of
from hf_finetune.compression.steps import Step, StepRows
from hf_finetune.models.families import family_of
from hf_finetune.models.modules import without_adapter
from hf_finetune.tasks.trained_model import TrainedModel
from hf_finetune.utils.config import OpenFraction, configclass

SHARES = (1.0, 0.75, 0.5, 0.25, 0.125)
"""Of the neurons of a layer that may remain."""
SEARCH_ROWS = 128
"""Calibration rows by which widths are compared."""
TOKENS, CALLS = 256, 20
"""Tokens of a timed feed-forward network, and how often it is timed."""


@configclass
class AllocateFeedForward(Step):
    """Remove neurons where the logits change least for the time that it saves.

    Each layer gets its own number, so that all take no longer than with the same share removed from each. No config of
    transformers can say so: only a graph stores the network.
    """

    name = "feed-forward-by-layer"
    share: OpenFraction = 0.5
    """Share of the neurons whose time is saved, if it were removed from each layer."""

    def refusal(self, classifier: TrainedModel) -> str | None:
        """Refuse what `PruneFeedForward` does, and layers that share weights or differ in width."""
        config = without_adapter(classifier.model).config
        if (why := PruneFeedForward().refusal(classifier)) is not None:
            return why
        return None if family_of(config).one_width else f"the layers of {config.model_type} are not of one width"

    def row_passes(self, rows: StepRows) -> int:
        """Return its cost: products of neurons for each layer and width, and the pruning itself."""
        return 30 * min(SEARCH_ROWS, len(rows.calibration)) + PruneFeedForward().row_passes(rows)

    def apply(self, classifier: TrainedModel, rows: StepRows) -> TrainedModel:
        """Return the classifier with narrower feed-forward networks."""
        model = cast(PreTrainedModel, classifier.model)
        few = rows.calibration.select(range(min(SEARCH_ROWS, len(rows.calibration))))
        widths = self.widths(model, calibration_batches(classifier, few))
        pruned = PruneFeedForward(widths=widths).pruned(model, calibration_batches(classifier, rows.calibration))
        return replace(classifier, model=pruned)

    def widths(self, model: PreTrainedModel, batches: Sequence[Batch]) -> tuple[int, ...]:
        """Return the neurons that remain in each layer, bottom to top."""
        full = widths_of(model)
        choices = [max(1, round(share * full[0])) for share in SHARES]
        milliseconds = [feed_forward_ms(model.config.hidden_size, width) for width in choices]
        uniform = feed_forward_ms(model.config.hidden_size, max(1, round((1 - self.share) * full[0])))
        expected, errors_LK = logits_of(model, batches), np.zeros((len(full), len(choices)))
        for layer in range(len(full)):
            for number, width in enumerate(choices[1:], start=1):
                step = PruneFeedForward(widths=(*full[:layer], width, *full[layer + 1 :]))
                difference = logits_of(step.pruned(model, batches), batches) - expected
                errors_LK[layer, number] = float(difference.square().mean())
        return tuple(choices[number] for number in allocate(errors_LK, milliseconds, uniform * len(full)))


def allocate(errors_LK: np.ndarray, milliseconds: Sequence[float], most_ms: float) -> list[int]:
    """Return the choice of each layer, by the smallest increase of the error for the time that it saves.

    Args:
        errors_LK: error of each choice, of that layer alone; rising.
        milliseconds: time of each choice, K of them; falling.
        most_ms: time of all layers together. With the last choices everywhere, more is not possible.
    """
    chosen = [0] * len(errors_LK)
    while sum(milliseconds[number] for number in chosen) > most_ms:
        # Not only the next choice: a narrower one may save more for its error.
        moves = [
            ((errors_LK[layer, new] - errors_LK[layer, old]) / (milliseconds[old] - milliseconds[new]), layer, new)
            for layer, old in enumerate(chosen)
            for new in range(old + 1, len(milliseconds))
            if milliseconds[new] < milliseconds[old]
        ]
        if not moves:
            break
        _, layer, new = min(moves)
        chosen[layer] = new
    return chosen


@torch.no_grad()
def feed_forward_ms(hidden: int, neurons: int) -> float:
    """Return the median time of a feed-forward network on 256 tokens, in milliseconds."""
    network = nn.Sequential(nn.Linear(hidden, neurons), nn.GELU(), nn.Linear(neurons, hidden))
    inputs, seconds = torch.randn(TOKENS, hidden), []
    for _ in range(CALLS):
        started = time.perf_counter()
        network(inputs)
        seconds.append(time.perf_counter() - started)
    return 1000 * float(np.median(seconds))
