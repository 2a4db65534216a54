"""Choice of a run's final weights by validation: the best epoch's, a running average, or a soup of epochs."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from transformers import TrainerState, TrainingArguments

from hf_finetune.training.averaging import Averages, Weights, load_weights, swapped
from hf_finetune.training.hooks import Hook
from hf_finetune.training.soup import Candidate, Soup, best_of

logger = logging.getLogger("hf_finetune.run")


@dataclass(frozen=True)
class WeightAveraging:
    """Averaged weights that compete with those of the best epoch."""

    running: Averages | None = None
    """Running averages over the steps."""
    soup: Soup | None = None
    """Average of the scored epochs, computed after the last step."""

    @property
    def hooks(self) -> tuple[Hook, ...]:
        """Hooks that collect the weights during training."""
        return tuple(hook for hook in (self.running, self.soup) if hook is not None)


@dataclass(frozen=True)
class Selection:
    """The weights that a run ends with."""

    best: Candidate | None = None
    """None: no epoch was scored, and the last weights stay."""
    candidates: tuple[Candidate, ...] = ()


def select_weights(
    model: nn.Module,
    state: TrainerState,
    args: TrainingArguments,
    averaging: WeightAveraging,
    score: Callable[[], float],
) -> Selection:
    """Load the best candidate into the model, which holds the weights of the best epoch.

    Args:
        state: state after the last step.
        args: name the metric that decides.
        score: computes that metric for the model's present weights.
    """
    metric, greater_is_better = args.metric_for_best_model, bool(args.greater_is_better)

    def score_of(weights: Weights) -> float:
        with swapped(model, weights):
            return score()

    if state.best_global_step is None or state.best_metric is None:
        return Selection()
    candidates = [Candidate("checkpoint", (state.best_global_step,), state.best_metric)]
    averages: dict[str, Weights] = {}
    if averaging.running is not None:
        averages = averaging.running.begun()
        for name in sorted(averaging.running.kinds.keys() - averages.keys()):
            logger.warning("averaging: the run ended at step %d, before its %s began", state.global_step, name)
    for name in averages:
        value = _scores(state, f"eval_{name}_{metric}")[state.global_step]
        candidates.append(Candidate(name, (state.global_step,), value))
    if averaging.soup is not None:
        scores = _scores(state, f"eval_{metric}")
        soup, averages["soup"] = averaging.soup.cook(scores, score_of, greater_is_better=greater_is_better)
        candidates.append(soup)
    best = best_of(candidates, greater_is_better=greater_is_better)
    if best.is_average:
        load_weights(model, averages[best.weights])
    return Selection(best, tuple(candidates))


def _scores(state: TrainerState, metric: str) -> dict[int, float]:
    """Logged values of a metric by step, without the evaluation before the first step (`eval_on_start`)."""
    return {int(line["step"]): line[metric] for line in state.log_history if metric in line and line["step"] > 0}
