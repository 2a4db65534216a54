"""Bayesian search: Optuna's tree-structured Parzen estimator, poor policies given up after few steps."""

from __future__ import annotations

from typing import Any

from hf_finetune.errors import InputError
from hf_finetune.search.augmentation.space import BRANCHES, LEVELS, MOVES, Mix, Move, Policy, Space
from hf_finetune.search.searchers.base import RUNGS, Trial, halved, most_arms


def library() -> Any:
    """Optuna, which says nothing of its own.

    Raises:
        InputError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise InputError(
            "--searcher tpe: expected Optuna to be installed; `pip install hf_finetune[search]`, or --searcher sweep"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


class Tpe:
    """Optuna's TPE (Bergstra et al. 2011, "Algorithms for hyper-parameter optimization") over all moves of a policy, with
    asynchronous successive halving (arXiv:1810.05934): a policy that is not in the better half of those that came as far as
    it did goes no further.

    Raises:
        InputError: Optuna is not installed.
    """

    def __init__(self, space: Space, *, trials: int, seed: int = 0) -> None:
        optuna = library()
        self.space, self.left = space, trials
        self.pruned = optuna.trial.TrialState.PRUNED
        self.study = optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.TPESampler(n_startup_trials=max(4, most_arms(trials) // 4), seed=seed),
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
        )
        self.open: Any = None
        self.asked = Trial((), 0)

    @staticmethod
    def counts(trials: int, space: Space) -> tuple[int, ...]:
        """Trials by rung, of so many, on average."""
        later = halved(most_arms(trials))[1:]
        return (max(1, trials - sum(later)), *later)

    def ask(self) -> Trial | None:
        """See `Searcher`."""
        if self.left == 0:
            return None
        self.left -= 1
        if self.open is None:
            self.open = self.study.ask()
            self.asked = Trial((self._policy(),), 0)
        return self.asked

    def tell(self, trial: Trial, score: float) -> None:
        """See `Searcher`."""
        self.open.report(score, 2**trial.rung)
        is_last = trial.rung + 1 == RUNGS
        if not is_last and not self.open.should_prune():
            self.asked = Trial(trial.schedule, trial.rung + 1)
            return
        if is_last:
            self.study.tell(self.open, score)
        else:
            self.study.tell(self.open, state=self.pruned)
        self.open = None

    def _policy(self) -> Policy:
        def level(name: str) -> float:
            return LEVELS[self.open.suggest_int(name, 0, len(LEVELS) - 1)]

        def move(where: str) -> Move:
            name = self.open.suggest_categorical(f"{where} operation", self.space.names)
            return Move(name, level(f"{where} probability"), level(f"{where} magnitude"))

        branches = tuple(tuple(move(f"{b}.{m}") for m in range(MOVES)) for b in range(BRANCHES))
        names = ("none", *self.space.mixing_names)
        if len(names) == 1 or (name := self.open.suggest_categorical("mix", names)) == "none":
            return Policy(branches)
        return Policy(branches, mix=Mix(name, level("mix probability"), level("mix alpha")))
