"""Bayesian search by Optuna's tree-structured Parzen estimator, with early stopping of poor candidates."""

from typing import Any

from hf_finetune.errors import InputError
from hf_finetune.search.searchers.base import RUNGS, Candidate, Decision, Searcher, SearchSpace, Trial
from hf_finetune.search.searchers.halving import halving_counts, max_candidates
from hf_finetune.utils.messages import install_command


def _import_optuna() -> Any:
    """Import Optuna, and silence its log.

    Raises:
        InputError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise InputError(
            f"--searcher tpe: expected Optuna to be installed; {install_command('search')}, or --searcher sweep"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


class Tpe(Searcher):
    """Optuna's TPE (Bergstra et al. 2011, "Algorithms for hyper-parameter optimization") over all decisions, with
    asynchronous successive halving (arXiv:1810.05934): a candidate stops unless it is in the better half of those that
    have reached its rung.

    Raises:
        InputError: Optuna is not installed.
    """

    def __init__(self, space: SearchSpace, *, trials: int, seed: int = 0) -> None:
        optuna = _import_optuna()
        self.space, self.remaining = space, trials
        self.pruned = optuna.trial.TrialState.PRUNED
        self.study = optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.TPESampler(n_startup_trials=max(4, max_candidates(trials) // 4), seed=seed),
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
        )
        self.open: Any = None
        self.next = Trial((), 0)

    @staticmethod
    def counts(trials: int, space: SearchSpace) -> tuple[int, ...]:
        """Return the expected counts, see `Searcher`."""
        later = halving_counts(max_candidates(trials))[1:]
        return (max(1, trials - sum(later)), *later)

    @staticmethod
    def check_installed() -> None:
        _import_optuna()

    def ask(self) -> Trial | None:
        if self.remaining == 0:
            return None
        self.remaining -= 1
        if self.open is None:
            self.open = self.study.ask()
            self.next = Trial((self.space.candidate(self._choose),), 0)
        return self.next

    def tell(self, trial: Trial, score: float) -> None:
        self.open.report(score, 2**trial.rung)
        is_last = trial.rung + 1 == RUNGS
        if not is_last and not self.open.should_prune():
            self.next = Trial(trial.schedule, trial.rung + 1)
            return
        if is_last:
            self.study.tell(self.open, score)
        else:
            self.study.tell(self.open, state=self.pruned)
        self.open = None

    def _choose(self, decision: Decision) -> Candidate:
        if decision.ordered:
            return decision.options[self.open.suggest_int(decision.name, 0, len(decision.options) - 1)]
        return self.open.suggest_categorical(decision.name, decision.options)
