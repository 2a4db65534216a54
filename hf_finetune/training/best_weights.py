"""Which weights a run ends with: those of its best epoch, a running average, or a soup of epochs. Validation
decides."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from transformers import TrainerState, TrainingArguments

from hf_finetune.training.averaging import Averages, Weights, put_in, swapped
from hf_finetune.training.hooks import Hook
from hf_finetune.training.soup import Candidate, Soup, best_of

logger = logging.getLogger("hf_finetune.run")


@dataclass(frozen=True)
class WeightAveraging:
    """What a run could end with beside the weights of its best epoch."""

    running: Averages | None = None
    """Averages that follow the run step by step."""
    soup: Soup | None = None
    """Weights of the scored epochs, averaged after the last step."""

    @property
    def hooks(self) -> tuple[Hook, ...]:
        """What follows the run."""
        return tuple(hook for hook in (self.running, self.soup) if hook is not None)


@dataclass(frozen=True)
class Selection:
    """The weights that a run ends with."""

    best: Candidate | None = None
    """None: no epoch has a score, and the last weights stay."""
    candidates: tuple[Candidate, ...] = ()
    """All that it was chosen from."""


def select_weights(
    model: nn.Module,
    state: TrainerState,
    args: TrainingArguments,
    averaging: WeightAveraging,
    score: Callable[[], float],
) -> Selection:
    """Give the model the weights that validation prefers; those of the best epoch, which it has now, are one candidate.

    Args:
        state: of a run after its last step.
        args: they name the metric that decides.
        score: that metric, of the model as it is when it is called.
    """
    metric, greater_is_better = args.metric_for_best_model, bool(args.greater_is_better)

    def score_of(weights: Weights) -> float:
        with swapped(model, weights):
            return score()

    if state.best_global_step is None or state.best_metric is None:
        return Selection()
    candidates = [Candidate("checkpoint", (state.best_global_step,), state.best_metric)]
    averages = dict(averaging.running.begun()) if averaging.running is not None else {}
    for name in sorted(averaging.running.kinds.keys() - averages.keys() if averaging.running is not None else ()):
        logger.warning("averaging: the run ended at step %d, before its %s began", state.global_step, name)
    for name in averages:
        value = _scores(state, f"eval_{name}_{metric}")[state.global_step]
        candidates.append(Candidate(name, (state.global_step,), value))
    if averaging.soup is not None:
        soup, averages["soup"] = averaging.soup.cook(
            _scores(state, f"eval_{metric}"), score_of, greater_is_better=greater_is_better
        )
        candidates.append(soup)
    best = best_of(candidates, greater_is_better=greater_is_better)
    if best.is_average:
        put_in(model, averages[best.weights])
    return Selection(best, tuple(candidates))


def _scores(state: TrainerState, metric: str) -> dict[int, float]:
    """A logged metric by step. What was scored before the first step (`eval_on_start`) is no candidate."""
    return {int(line["step"]): line[metric] for line in state.log_history if metric in line and line["step"] > 0}
