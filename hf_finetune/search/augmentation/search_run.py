"""A policy search in progress: its state, and its trials."""

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hf_finetune.augmentation.mixing import Mixing
from hf_finetune.errors import InputError
from hf_finetune.search import planning
from hf_finetune.search.augmentation.policy import NONE, Policy, describe_schedule
from hf_finetune.search.augmentation.proxy_task import ProxyTask, Stage
from hf_finetune.search.augmentation.space import Space
from hf_finetune.search.budget import Budget
from hf_finetune.search.config import SearchOptions
from hf_finetune.search.recipe_variant import RecipeVariant
from hf_finetune.search.searchers.base import RUNGS, Trial
from hf_finetune.search.searchers.table import SEARCHERS
from hf_finetune.search.state import State
from hf_finetune.utils.console import Progress
from hf_finetune.utils.durations import format_duration
from hf_finetune.utils.files import write_json
from hf_finetune.utils.plain import to_plain

logger = logging.getLogger("hf_finetune.run")


@dataclass
class SearchRun:
    """A search in progress; `state` is the content of search.json."""

    base: RecipeVariant
    options: SearchOptions
    proxy: ProxyTask
    space: Space
    state: State
    folder: Path
    budget: Budget

    @property
    def plan(self) -> dict[str, Any]:
        return self.state["plan"]

    @property
    def trials(self) -> list[dict[str, Any]]:
        """The finished trials."""
        return self.state["trials"]

    @property
    def costs(self) -> planning.Costs:
        """The costs as measured at the start of the search."""
        costs = self.plan["costs"]
        return planning.Costs(costs["step_s"], costs["rest_s"], planning.RunCost(**costs["run"]))

    @property
    def min_seeds(self) -> int:
        """Fewest pairs of final runs that there must be time for."""
        return self.options.seeds or planning.MIN_SEEDS

    def save(self) -> None:
        """Write search.json."""
        self.state["seconds"] = round(self.budget.used_s, 2)
        write_json(self.folder / "search.json", self.state)

    def plan_trials(self) -> None:
        """Fix the number of trials and their steps."""
        requested, searcher = self.options.trials, self.options.searcher
        counts = partial(SEARCHERS[searcher].counts, space=self.space)
        trials, steps = planning.plan_trials(
            self.costs,
            counts,
            requested=requested,
            max_steps=self.plan["recipe_steps"],
            available_s=self.plan["trials_s"],
        )
        self.plan.update(trials=trials, rung_steps=[steps * 2**rung for rung in range(RUNGS)])
        self.save()
        if requested is not None and trials < requested:
            logger.info(
                "--trials %d: %s makes %d, as the trials of later rungs count, or its space has no more policies",
                requested,
                searcher,
                trials,
            )
        expected_s = sum((n + 1) * s for n, s in zip(counts(trials), self.costs.trial_s(steps), strict=True))
        logger.info("%d trials by %s, about %s", trials, searcher, format_duration(expected_s))

    def best_trial(self, bar: Progress) -> Trial:
        """Run the trials, except those that are done; return the best of those on the last rung reached."""
        seed = self.base.recipe.train.seed
        searcher = SEARCHERS[self.options.searcher](self.space, trials=self.plan["trials"], seed=seed)
        for rung in range(RUNGS):
            self._score(Trial((NONE,), rung), rung, bar)
        scored: list[tuple[int, float, Trial]] = []
        while (trial := searcher.ask()) is not None:
            number = RUNGS + len(scored)
            if scored and number >= len(self.trials) and self._is_out_of_time(trial):
                logger.info("no time for more than %d of %d trials", len(scored), self.plan["trials"])
                break
            score = self._score(trial, number, bar)
            searcher.tell(trial, score)
            scored.append((trial.rung, score, trial))
        return max(scored, key=lambda s: s[:2])[2]

    def slowdown(self) -> float:
        """Return by which factor trials took longer than measured at the start; at least 1."""
        return max(1.0, self._trials_s() / sum(self._expected_s(trial["rung"]) for trial in self.trials))

    def variant(self, trial: Trial) -> RecipeVariant:
        """Return the recipe with the policies of a trial, stretched over a whole run."""
        augment = self.space.augment_in_phases(trial.schedule, self.starts(trial))
        return self.base.with_policy(augment, self._mix(trial.candidate))

    def starts(self, trial: Trial) -> list[float]:
        """Return when each policy of a trial but the first starts, as a share of the trial's steps."""
        ends = self.plan["rung_steps"]
        return [round(ends[i] / ends[trial.rung], 4) for i in range(len(trial.schedule) - 1)]

    def _score(self, trial: Trial, number: int, bar: Progress) -> float:
        """Return the score of a trial, from search.json if it is done."""
        if number == len(self.trials):
            self.trials.append(self._train(trial))
            self.save()
        finished = self.trials[number]
        if (finished["schedule"], finished["rung"]) != (plain_schedule(trial), trial.rung):
            raise InputError(f"{self.folder / 'search.json'}: trial {number} is of another search; start a new one")
        bar.update(remark=f"best {max(t['score'] for t in self.trials):.4f}")
        return finished["score"]

    def _train(self, trial: Trial) -> dict[str, Any]:
        """Train with the trial's policies, one on each rung; return the entry for search.json."""
        ends, stages = self.plan["rung_steps"], []
        for rung in range(trial.rung + 1):
            policy = trial.schedule[min(rung, len(trial.schedule) - 1)]
            steps = ends[rung] - (ends[rung - 1] if rung else 0)
            stages.append(Stage(steps, self.space.augment(policy), self._mix(policy)))
        score = self.proxy.run(stages)
        return {
            "policy": describe_schedule(trial.schedule),
            "steps": ends[trial.rung],
            "score": round(score.value, 6),
            "judged": round(score.judged, 6),
            "seconds": round(score.seconds, 3),
            "rung": trial.rung,
            "schedule": plain_schedule(trial),
        }

    def _mix(self, policy: Policy) -> tuple[Mixing, ...]:
        """Return the recipe's own mixing, else the policy's."""
        return self.base.recipe.objective.mix or self.space.mix(policy)

    def _is_out_of_time(self, trial: Trial) -> bool:
        # A number of trials that the user asks for is kept, whatever it takes.
        expected_s = self._trials_s() + self._expected_s(trial.rung)
        return self.options.trials is None and expected_s > self.plan["trials_s"]

    def _trials_s(self) -> float:
        return sum(trial["seconds"] for trial in self.trials)

    def _expected_s(self, rung: int) -> float:
        return self.costs.trial_s(self.plan["rung_steps"][0])[rung]


def plain_schedule(trial: Trial) -> list[Any]:
    """Return the policies of a trial in JSON types."""
    return [to_plain(policy) for policy in trial.schedule]
