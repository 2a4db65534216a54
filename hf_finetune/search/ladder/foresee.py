"""What a climb would do: its rungs, and what each would take, decided as the climb itself decides. Nothing is trained.

What only results decide stays open: a rung is left where nothing has a signal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from hf_finetune.search.ladder import decisions
from hf_finetune.search.ladder.costs import BUILD_S, RungCost, Scoring
from hf_finetune.search.ladder.state import JOINED_RUNG, SOUP_RUNG
from hf_finetune.search.recipe_variant import SingleMethod


@dataclass(frozen=True)
class PlannedRung:
    """A rung of a planned climb."""

    name: str
    reason: str
    """What it does, or why it is left."""
    seconds: float | None = None
    """None: it is left."""
    ends_s: float | None = None
    """Seconds of the climb at its end."""
    epochs: float | None = None


@dataclass
class PlannedClock:
    """The time of a planned climb."""

    budget_s: float
    used_s: float
    rungs: list[PlannedRung] = field(default_factory=list)

    @property
    def left_s(self) -> float:
        """Seconds of the budget that are left."""
        return self.budget_s - self.used_s

    def climb(self, name: str, seconds: float, reason: str, *, epochs: float | None = None) -> None:
        """Add a rung that is climbed."""
        self.used_s += seconds
        self.rungs.append(PlannedRung(name, reason, round(seconds, 1), round(self.used_s, 1), epochs))

    def leave(self, name: str, reason: str) -> None:
        """Add a rung that is left."""
        self.rungs.append(PlannedRung(name, reason))


@dataclass(frozen=True)
class NetworkCosts:
    """What the networks of a climb cost."""

    scoring: Scoring
    of: Callable[[SingleMethod], RungCost]
    """Measures a method."""
    head_s: Callable[[int], float]
    """Seconds of the rung of the head, by its number of training rows."""
    folds: int | None
    """None: the validation rows judge."""
    joins: bool = False
    """Whether the linear model and the head may be judged together."""


def foresee(
    clock: PlannedClock,
    classical: Mapping[str, float],
    costs: NetworkCosts,
    methods: Sequence[SingleMethod],
    *,
    epochs: float,
    averages: bool = False,
    ensemble: bool = False,
    has_model: bool = True,
) -> None:
    """Add the rungs of a climb to its clock.

    Args:
        classical: seconds of each model without a network.
        methods: see `decisions.methods_of`.
        epochs: those of the recipe.
        averages: see `decisions.averages`.
        ensemble: whether a student of the rungs may be the last one.
        has_model: whether a model without a network can be the result.
    """
    for name, seconds in classical.items():
        clock.climb(name, seconds, "a model after seconds")
    reason = decisions.why_no_network(clock.left_s, None if costs.folds is not None else lambda: costs.scoring)
    if reason is not None and has_model:
        clock.leave("head", reason)
        return
    _add_head(clock, costs, classical["linear"] if has_model else None, fine_tunes="full" in methods)
    full_epochs = 0.0
    for method in methods:
        left_s, started = clock.left_s, time.perf_counter()
        plan = decisions.weigh(method, costs.of, left_s=left_s, epochs=epochs)
        # The climb measures its costs, too.
        clock.used_s += time.perf_counter() - started
        _add(clock, method, costs.of(method), plan, costs.scoring.later_s)
        full_epochs = plan.expected
    if averages and full_epochs and costs.folds is None:
        _add_second(clock, costs, full_epochs)
    if ensemble:
        clock.leave("student", "only if the mean of some rungs is better than the best one, and time is left")


def _add_second(clock: PlannedClock, costs: NetworkCosts, epochs: float) -> None:
    """Add a second full fine-tuning, of no more epochs than the first."""
    plan = decisions.weigh_soup(costs.of, left_s=clock.left_s, epochs=epochs)
    if plan.epochs is not None:
        plan = replace(plan, reason=f"{plan.reason}; only if full fine-tuning is the best model")
    _add(clock, SOUP_RUNG, costs.of("full"), plan)


def _add(clock: PlannedClock, name: str, cost: RungCost, plan: decisions.RungPlan, later_s: float = 0.0) -> None:
    """Add a network that trains, or why it is left.

    Args:
        later_s: for what is written at the end, which was counted, and is not spent.
    """
    if plan.epochs is None:
        clock.leave(name, plan.reason)
    else:
        clock.climb(name, cost.seconds(plan.expected) - later_s, plan.reason, epochs=round(plan.expected, 3))


def _add_head(clock: PlannedClock, costs: NetworkCosts, linear_s: float | None, *, fine_tunes: bool) -> None:
    """Add the head, and what follows it.

    Args:
        linear_s: seconds of the linear model. None: it cannot be the result.
    """
    scoring, train = costs.scoring, costs.scoring.rows["train"]
    if linear_s is not None and fine_tunes and costs.folds is None and scoring.goes_straight(clock.left_s):
        clock.leave("head", decisions.STRAIGHT)
        return
    later = decisions.writes_later(clock.left_s)
    joined_s = scoring.joined_s(linear_s, later=later) if costs.joins and linear_s is not None else 0.0
    rows = train
    if costs.folds is None:
        rows = scoring.head_rows(clock.left_s, fine_tunes=fine_tunes, joined_s=joined_s)
    part = "" if rows >= train else f" of {rows:,} of {train:,} rows"
    clock.climb("head", costs.head_s(rows) - scoring.later_s, f"a linear head on frozen features{part}")
    if costs.joins and linear_s is not None:
        clock.climb(JOINED_RUNG, BUILD_S, "the linear model and the head together")
