"""Paired final runs: for each seed a run without augmentation and a run with the policy, and their difference."""

import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from hf_finetune.evaluation.paired import paired_difference, paired_macro_f1, paired_scores, verdict
from hf_finetune.search import planning
from hf_finetune.search.final_runs import FinalRun
from hf_finetune.search.state import State
from hf_finetune.tasks.base import Task
from hf_finetune.utils.durations import format_duration

logger = logging.getLogger("hf_finetune.run")

Train = Callable[[str, int, planning.RunPlan], FinalRun]
"""`(side, seed, plan) -> run`; the side is "without" or "with"."""


class PairedRuns:
    """Plans final runs by measured costs and by the runs before them, and runs them.

    The number of steps is planned before the first run, so that there is time for three seeds, or for as many as the
    user asks for. If the first pair takes so much longer than measured that the others would not end in time, it starts
    again with fewer steps. All later pairs have the same steps, and none starts that would not end in time. If the user
    asks for no number of seeds, further pairs follow as long as there is time for one more.

    Args:
        state: content of search.json: `without`, `with`, and `steps` and `eval_rows` in `plan`.
        cost: measured cost of a run.
        recipe_steps: steps of the recipe.
        seeds: number of pairs; None for at least `MIN_SEEDS`, and more if there is time.
        first_seed: seed of the first pair; each further pair has the next.
        left_s: returns the remaining seconds of the budget.
    """

    def __init__(
        self,
        state: State,
        cost: planning.RunCost,
        *,
        recipe_steps: int,
        seeds: int | None,
        first_seed: int,
        left_s: Callable[[], float],
    ) -> None:
        self.plan, self.without, self.policy = state["plan"], state["without"], state["with"]
        self.cost, self.recipe_steps, self.first_seed, self.left_s = cost, recipe_steps, first_seed, left_s
        self.min_pairs, self.max_pairs = seeds or planning.MIN_SEEDS, seeds or planning.MAX_SEEDS

    def begin(self) -> None:
        """Plan the number of steps and of evaluated rows."""
        plan = self._plan_runs(self.cost, max_steps=self.recipe_steps)
        if plan is None:
            plan = planning.shortest_runs(self.cost, recipe_steps=1)
            logger.warning(
                "everything takes longer than at the start: not even %d runs of one step may end within the %s left",
                2 * self.min_pairs,
                format_duration(self.left_s()),
            )
        self.plan |= asdict(plan)

    def run(self, train: Train, after_run: Callable[[], None]) -> None:
        """Run all runs that are not done yet.

        Args:
            after_run: called after each.
        """
        while (side := self._next_side()) is not None:
            runs = self.without if side == "without" else self.policy
            seed = self.first_seed + len(runs)
            plan = planning.RunPlan(self.plan["steps"], self.plan["eval_rows"])
            runs.append({"seed": seed, **asdict(train(side, seed, plan))})
            if len(self.policy) == 0 or len(self.policy) == len(self.without) == 1:
                self._restart_if_too_slow()
            after_run()

    def _next_side(self) -> str | None:
        """Return the side of the next run, or None after the last."""
        pairs = len(self.policy)
        if len(self.without) > pairs:
            return "with"
        if pairs == 0:
            return "without"
        if pairs == self.max_pairs:
            return None
        last_s = sum(_repeat_seconds(runs[-1]) for runs in (self.without, self.policy))
        if pairs < self.min_pairs and last_s > self.left_s():
            logger.warning("no time for more than %d of %d pairs of runs", pairs, self.min_pairs)
        reserve = planning.RESERVE if pairs >= self.min_pairs else 0.0
        return "without" if last_s * (1 + reserve) <= self.left_s() else None

    def _plan_runs(self, cost: planning.RunCost, *, max_steps: int) -> planning.RunPlan | None:
        return planning.plan_runs(cost, max_steps=max_steps, seeds=self.min_pairs, left_s=self.left_s())

    def _restart_if_too_slow(self) -> None:
        """Discard the first runs and plan fewer steps, if the remaining runs would not end in time."""
        expected_s = replace(self.cost, eval_rows=self.plan["eval_rows"]).seconds(self.plan["steps"])
        measured_s = [_repeat_seconds(runs[0]) - runs[0]["head_s"] for runs in (self.without, self.policy) if runs]
        slowest_s = max(measured_s)
        remaining = 2 * self.min_pairs - len(measured_s)
        remaining_s = remaining * max(slowest_s, expected_s) + (self.min_pairs - 1) * self.cost.head_s
        if remaining_s <= self.left_s():
            return
        cost = self.cost.scaled(max(1.0, slowest_s / expected_s))
        shorter = self._plan_runs(cost, max_steps=self.plan["steps"] - 1)
        if shorter is None:
            return
        logger.warning(
            "a run of %d steps takes %s, not %s as measured: all start again with %d steps",
            self.plan["steps"],
            format_duration(slowest_s),
            format_duration(expected_s),
            shorter.steps,
        )
        self.plan |= asdict(shorter)
        self.without.clear()
        self.policy.clear()


def compare(state: State, labels: np.ndarray, task: Task, metric: str) -> dict[str, Any]:
    """Return the paired difference between runs with and without the policy, and the judgement that it supports."""
    mine, theirs = (np.array([run["predicted"] for run in state[side]]) for side in ("with", "without"))
    if metric == "macro_f1":
        difference = paired_macro_f1(labels, mine, theirs)
    elif metric == "accuracy":
        difference = paired_difference(mine == labels, theirs == labels)
    else:
        sides = ([task.by_row(labels, decided) for decided in side] for side in (mine, theirs))
        difference = paired_scores(*map(np.stack, sides))
    # Two seeds, where runs became too slow for a third, decide nothing; nor does another metric than accuracy of few
    # rows, whose interval does not hold for them.
    enough = len(mine) >= planning.MIN_SEEDS and (metric == "accuracy" or len(labels) >= planning.MIN_EVAL_ROWS)
    judgement = verdict(difference) if enough else "undecided"
    return {"metric": metric, **difference.to_dict(), "image_size": state["plan"]["image_size"], "judgement": judgement}


def _repeat_seconds(run: dict[str, Any]) -> float:
    """Return the seconds that a repeated run would take, without what is cached once."""
    return run["seconds"] - run["cache_s"]
