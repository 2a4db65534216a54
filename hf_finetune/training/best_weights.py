"""Which weights a run ends with: those of its best epoch, a running average, or a soup of epochs. Validation decides."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from torch import nn
from transformers import TrainerState, TrainingArguments

from hf_finetune.training.averaging import Averages, Weights, put_in, swapped
from hf_finetune.training.optim.sam import RandomState
from hf_finetune.training.soup import Candidate, Soup, best_of

logger = logging.getLogger("hf_finetune.run")


class Keeping:
    """What a run could keep beside its checkpoints, and the choice among all of it.

    Args:
        averages: running averages of the weights, which follow the run as a callback of its own.
        soup: weights of the scored epochs, averaged after the last step.
        args: of the run; name the validation metric that chooses, and whether more of it is better.
    """

    def __init__(self, averages: Averages | None, soup: Soup | None, args: TrainingArguments) -> None:
        self.averages, self.soup, self.device = averages, soup, args.device
        assert args.metric_for_best_model is not None, "validation decides by some metric"
        self.metric, self.greater_is_better = args.metric_for_best_model, bool(args.greater_is_better)

    def save(self, model: nn.Module, state: TrainerState, checkpoint: Path) -> None:
        """Write what a resumed run needs: into the checkpoint, before it is sealed, and beside it."""
        if self.averages is not None:
            self.averages.save(checkpoint)
        if self.soup is not None and state.global_step in self._scores(state):
            self.soup.add(model, state.global_step)

    def load(self, checkpoint: Path) -> None:
        """Go on from a checkpoint."""
        if self.averages is not None:
            self.averages.load(checkpoint, self.device)

    def scored(self, model: nn.Module, metrics_of: Callable[[str], dict[str, float]]) -> dict[str, float]:
        """Metrics of the running averages: `metrics_of(name)` of each, called while the model has that average's weights.

        Draws nothing from the numbers that training goes on with.
        """
        drawn, metrics = RandomState(self.device), {}
        for name, weights in self._running().items():
            with swapped(model, weights):
                metrics |= metrics_of(name)
        drawn.restore()
        return metrics

    def choose(
        self, model: nn.Module, state: TrainerState, score: Callable[[], float]
    ) -> tuple[Candidate | None, list[Candidate]]:
        """Give the model the weights that validation prefers; those of the best epoch, which it has now, are one choice.

        Args:
            state: of a run after its last step.
            score: the metric that chooses, of the model as it is when it is called.

        Returns:
            What is kept, and all that could be. None where no epoch has a score: the last weights stay.
        """

        def score_of(weights: Weights) -> float:
            with swapped(model, weights):
                return score()

        if state.best_global_step is None or state.best_metric is None:
            return None, []
        candidates = [Candidate("checkpoint", (state.best_global_step,), state.best_metric)]
        found = self._running()
        for name in sorted(self.averages.kinds.keys() - found.keys() if self.averages is not None else ()):
            logger.warning("averaging: the run ended at step %d, before its %s began", state.global_step, name)
        for name in found:
            candidates.append(Candidate(name, (state.global_step,), self._scores(state, name)[state.global_step]))
        if self.soup is not None:
            soup, found["soup"] = self.soup.cook(
                self._scores(state), score_of, greater_is_better=self.greater_is_better
            )
            candidates.append(soup)
        kept = best_of(candidates, greater_is_better=self.greater_is_better)
        if kept.is_average:
            put_in(model, found[kept.weights])
        return kept, candidates

    def _running(self) -> dict[str, Weights]:
        """The running averages that hold any weights yet."""
        return {} if self.averages is None else {name: self.averages.means[name] for name in self.averages.begun()}

    def _scores(self, state: TrainerState, average: str | None = None) -> dict[int, float]:
        """The metric that chooses, by step: of the weights themselves, or of one of their averages. What was scored before the
        first step (`eval_on_start`) is no choice."""
        key = "_".join(filter(None, ("eval", average, self.metric)))
        return {line["step"]: line[key] for line in state.log_history if key in line and line["step"] > 0}
