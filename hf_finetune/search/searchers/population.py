"""Population-based search: a schedule of policies, found by several trainings that learn from each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hf_finetune.search.augmentation.space import Policy, Space
from hf_finetune.search.searchers.base import RUNGS, Trial

FEW_MEMBERS, MOST_MEMBERS, TRIALS_A_MEMBER = 4, 16, 8


class Population:
    """Population-based augmentation (arXiv:1905.05393): all members train to a rung; then each of the worst quarter takes
    the place of one of the best (exploit), with a policy near that one's (explore). This is done several times before all
    go on to the next rung: only those that changed train again.

    A member that takes another's place trains that one's schedule again from the shared start, which gives the weights that
    it had: nothing but scores has to be kept. What comes out is a schedule, `Phases` in `data.augment`. How rows are mixed
    with one another is no part of it, as `objective.mix` holds for a whole run: where that changes, it does so throughout.
    """

    def __init__(self, space: Space, *, trials: int, seed: int = 0) -> None:
        self.space, self.rng = space, np.random.default_rng(seed)
        members, self.replaced, self.rounds = _sizes(trials)
        self.left = self.rounds[0]
        self.waiting = [Trial((space.policy(self.rng),), 0) for _ in range(members)]
        self.scores: list[tuple[float, Trial]] = []

    @staticmethod
    def counts(trials: int, space: Space) -> tuple[int, ...]:
        """Trials by rung, of so many."""
        members, replaced, rounds = _sizes(trials)
        return tuple(members + replaced * n for n in rounds)

    def ask(self) -> Trial | None:
        """See `Searcher`."""
        return self.waiting[0] if self.waiting else None

    def tell(self, trial: Trial, score: float) -> None:
        """See `Searcher`."""
        self.waiting.pop(0)
        self.scores.append((score, trial))
        if self.waiting:
            return
        # Of equals the one that came first.
        self.scores.sort(key=lambda told: -told[0])
        best = [t.schedule for _, t in self.scores[: self.replaced]]
        kept = self.scores[: len(self.scores) - self.replaced]
        if self.left:
            self.left -= 1
            self.scores = kept
            self.waiting = [Trial(_followed(s[:-1], self._near(s)), trial.rung) for s in best]
        elif trial.rung + 1 < RUNGS:
            self.left, self.scores = self.rounds[trial.rung + 1], []
            going_on = [(*t.schedule, t.policy) for _, t in kept] + [_followed(s, self._near(s)) for s in best]
            self.waiting = [Trial(schedule, trial.rung + 1) for schedule in going_on]

    def _near(self, schedule: tuple[Policy, ...]) -> Policy:
        return self.space.near(schedule[-1], self.rng)


def _followed(schedule: tuple[Policy, ...], policy: Policy) -> tuple[Policy, ...]:
    """The schedule with one more policy, all mixing rows as that one does."""
    return (*(replace(before, mix=policy.mix) for before in schedule), policy)


def _sizes(trials: int) -> tuple[int, int, tuple[int, ...]]:
    """Members, how many of them are replaced at a time, and how often on each rung beside the step to the next one."""
    members = max(1, min(MOST_MEMBERS, max(FEW_MEMBERS, trials // TRIALS_A_MEMBER), trials // RUNGS))
    # One alone has nobody to learn from.
    replaced = -(-members // 4) if members > 1 else 0
    rounds = (trials - RUNGS * members) // replaced if replaced else 0
    return members, replaced, (rounds - 2 * (rounds // 3), rounds // 3, rounds // 3)
