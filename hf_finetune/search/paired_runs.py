"""The runs that decide, one pair after another in the time that is left: a seed without augmentation, then with the
policy."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from hf_finetune.search.budget import format_duration
from hf_finetune.search.final_runs import Cost, FinalRun
from hf_finetune.search.state import State
from hf_finetune.search.time_plan import FEWEST_SEEDS, MOST_SEEDS, RESERVE, Runs, planned_runs, shortest_runs

logger = logging.getLogger("hf_finetune.run")

Train = Callable[[str, int, int, int], FinalRun]
"""`(side, seed, steps, validation rows) -> run`; the side is without or with."""


class PairedRuns:
    """Plans the runs by what was measured and what those before them took, and makes them.

    Their steps are planned before the first one: as many as three seeds (or those that the user asks for) have time
    for. Should the first pair take so much longer than measured that the others would not end in time, it begins again
    with fewer steps; once a pair is done, all others have its steps, and none begins that would not end in time. Where
    the user asks for no number, further pairs follow while the last one's time fits once more.

    Args:
        state: what search.json holds: `without`, `with`, and steps and judged rows in `plan`.
        cost: of a run, by what was measured in this search.
        whole_steps: steps of the recipe.
        seeds: pairs; None: at least `FEWEST_SEEDS`, and more where time is left.
        first_seed: of the first pair; every other one has the next.
        left: seconds of the budget that are left now.
    """

    def __init__(
        self,
        state: State,
        cost: Cost,
        *,
        whole_steps: int,
        seeds: int | None,
        first_seed: int,
        left: Callable[[], float],
    ) -> None:
        self.plan, self.without, self.policy = state["plan"], state["without"], state["with"]
        self.cost, self.whole_steps, self.first_seed, self.left = cost, whole_steps, first_seed, left
        self.least, self.most = seeds or FEWEST_SEEDS, seeds or MOST_SEEDS

    def begin(self) -> None:
        """Fix steps and judged rows."""
        runs = self._planned(self.cost, most=self.whole_steps)
        if runs is None:
            runs = shortest_runs(self.cost, whole_steps=1)
            logger.warning(
                "everything takes longer than at the start: not even %d runs of one step may end within the %s left",
                2 * self.least,
                format_duration(self.left()),
            )
        self.plan |= asdict(runs)

    def run(self, train: Train, after_run: Callable[[], None]) -> None:
        """Make the runs that are not done yet.

        Args:
            after_run: called after every one.
        """
        while (side := self._next()) is not None:
            done = self.without if side == "without" else self.policy
            seed = self.first_seed + len(done)
            done.append({"seed": seed, **asdict(train(side, seed, self.plan["steps"], self.plan["judged"]))})
            if len(self.policy) == 0 or len(self.policy) == len(self.without) == 1:
                self._shorten()
            after_run()

    def _next(self) -> str | None:
        """The side of the next run; None: it is over."""
        pairs = len(self.policy)
        if len(self.without) > pairs:
            return "with"
        if pairs == 0:
            return "without"
        if pairs == self.most:
            return None
        last_s = sum(_again(side[-1]) for side in (self.without, self.policy))
        if pairs < self.least and last_s > self.left():
            logger.warning("no time for more than %d of %d pairs of runs", pairs, self.least)
        reserve = RESERVE if pairs >= self.least else 0.0
        return "without" if last_s * (1 + reserve) <= self.left() else None

    def _planned(self, cost: Cost, *, most: int) -> Runs | None:
        return planned_runs(cost, most=most, seeds=self.least, left_s=self.left())

    def _shorten(self) -> None:
        """Begin again with fewer steps, should the runs that are left not end in time."""
        expected_s = replace(self.cost, scored=self.plan["judged"]).of(self.plan["steps"])
        taken_s = [_again(side[0]) - side[0]["head_s"] for side in (self.without, self.policy) if side]
        slowest_s = max(taken_s)
        runs = 2 * self.least - len(taken_s)
        rest_s = runs * max(slowest_s, expected_s) + (self.least - 1) * self.cost.head_s
        if rest_s <= self.left():
            return
        slower = self.cost.times(max(1.0, slowest_s / expected_s))
        fewer = self._planned(slower, most=self.plan["steps"] - 1)
        if fewer is None:
            return
        logger.warning(
            "a run of %d steps takes %s, not %s as measured: all begin again with %d steps",
            self.plan["steps"],
            format_duration(slowest_s),
            format_duration(expected_s),
            fewer.steps,
        )
        self.plan |= asdict(fewer)
        self.without.clear()
        self.policy.clear()


def _again(run: dict[str, Any]) -> float:
    """Seconds that a run like this one would take: what is made once alone does not count."""
    return run["seconds"] - run["kept_s"]
