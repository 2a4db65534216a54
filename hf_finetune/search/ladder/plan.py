"""Plan a climb: which rungs it would try, what each would take, and what would be left out. No model is trained."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from hf_finetune.data.loading import Splits
from hf_finetune.data.unlabeled import labeled_rows
from hf_finetune.pipeline.base_plan import BasePlan, row_counts
from hf_finetune.pipeline.classical.plan import MOST_ROWS, measure_classical
from hf_finetune.pipeline.context import Run, RunInput
from hf_finetune.pipeline.run import with_network
from hf_finetune.search.budget import Budget
from hf_finetune.search.checkpoints.choose import PART_OF_BUDGET
from hf_finetune.search.ladder import decisions
from hf_finetune.search.ladder.classical_rungs import classical_candidates, classical_run
from hf_finetune.search.ladder.costs import BUILD_S, WRITE_S, MethodCosts, RungCost, scoring_of
from hf_finetune.search.ladder.folds import FoldTimes, with_folds
from hf_finetune.search.ladder.foresee import NetworkCosts, PlannedClock, PlannedRung, foresee
from hf_finetune.search.ladder.joined_rung import may_join
from hf_finetune.search.ladder.judges import with_judges, with_scored
from hf_finetune.search.ladder.run import DEFAULT_BUDGET, load
from hf_finetune.search.ladder.state import LadderState
from hf_finetune.search.recipe_variant import RecipeVariant, SingleMethod
from hf_finetune.tasks.base import Task
from hf_finetune.training.precision import settings_restored
from hf_finetune.utils.console import Progress, line_width, table
from hf_finetune.utils.core_sharing import shared_cores
from hf_finetune.utils.durations import format_duration
from hf_finetune.utils.environment import hardware, memory, seconds_since_start
from hf_finetune.utils.launched import refuse_processes
from hf_finetune.utils.messages import silenced


@dataclass(frozen=True)
class LadderPlan(BasePlan):
    """What a climb would do. Seconds and megabytes are estimates; of what only results decide, see `foresee`."""

    budget_s: float | None
    """None: there is no limit."""
    judged_by: str
    """The rows by which rungs are compared."""
    rungs: list[PlannedRung]
    estimate: dict[str, float]
    """Seconds of everything, and peak memory."""

    def __str__(self) -> str:
        total = f"about {format_duration(self.estimate['total_s'])}"
        lines = (
            ("judged by", self.judged_by),
            ("everything", total if self.budget_s is None else f"{total} of {format_duration(self.budget_s)}"),
            ("memory", f"about {self.estimate['peak_rss_mb']:,.0f} MB"),
        )
        return f"{self._lines(lines)}\n\n{self._table()}"

    def _table(self) -> str:
        lines = [("rung", "seconds", "ends at", "")]
        for rung in self.rungs:
            times = ("", "") if rung.seconds is None else (f"{rung.seconds:.0f}", f"{rung.ends_s:.0f}")
            lines.append((rung.name, *times, rung.reason))
        return table(lines, right=(1, 2), width=line_width())


@settings_restored()
@shared_cores()
def plan_climb(base: RecipeVariant) -> LadderPlan:
    """Measure what the rungs of a climb cost, and decide as the climb would. Nothing is saved.

    Raises:
        InputError: whatever would stop the climb before its first rung.
    """
    refuse_processes("method auto", None)
    budget, clock_notes = Budget(base.budget_s(DEFAULT_BUDGET), seconds_since_start()), []
    candidates = base.recipe.search.candidates
    if candidates:
        base = base.with_checkpoint(candidates[0])
        clock_notes.append(f"the rungs are those of {candidates[0]}; the probes may choose another candidate")
    loaded = load(base, budget, LadderState(Path()))
    base, first = base.with_choices(RecipeVariant(loaded.context.recipe)), with_network(loaded)
    costs = MethodCosts()
    with silenced():
        base, loaded, first = _judged(base, loaded, first, costs, budget)
    clock = PlannedClock(budget.seconds, budget.used_s)
    if candidates and not math.isinf(clock.left_s):
        clock.climb("candidates", PART_OF_BUDGET * clock.left_s, "probes on frozen features of each, at most")
    with Progress("measure a few steps", quiet=True), silenced():
        _foresee(clock, base, loaded, costs.row(first, budget.left_s), costs, budget)
    splits, folds = loaded.data.splits, base.recipe.evaluate.folds
    rows = row_counts(splits)
    judged_by = f"{rows['validation']:,} validation rows"
    if folds is not None:
        judged_by = f"all {rows['train'] + rows['validation']:,} rows, in {folds} folds"
    return LadderPlan(
        name=base.recipe.name,
        rows=rows,
        labels=len(splits.labels),
        outputs=loaded.data.task.outputs,
        columns=splits.named_columns,
        notes=[*first.notes, *clock_notes],
        budget_s=None if math.isinf(budget.seconds) else budget.seconds,
        judged_by=judged_by,
        rungs=clock.rungs,
        estimate={"total_s": round(clock.used_s, 1), **memory(loaded.context.device)},
        environment=hardware(loaded.context.device, loaded.context.processes),
    )


def _judged(
    base: RecipeVariant, loaded: RunInput, first: Run, costs: MethodCosts, budget: Budget
) -> tuple[RecipeVariant, RunInput, Run]:
    """Return what networks read, with the rows that judge and those of test that there is time for."""
    state = LadderState(Path())
    base, loaded, first = with_judges(base, loaded, first, costs, budget, state)
    return base, *with_scored(loaded, first, state, "test")


def _foresee(
    clock: PlannedClock, base: RecipeVariant, loaded: RunInput, row_s: float, costs: MethodCosts, budget: Budget
) -> None:
    """Measure models and networks, and add their rungs to the clock."""
    classical = _classical_seconds(base, loaded.data.splits, loaded.data.task)
    splits, evaluate = loaded.data.splits, base.recipe.evaluate
    search, has_model = base.recipe.search, not loaded.data.task.has_words
    is_later = has_model and not search.ensemble and decisions.writes_later(budget.left_s)
    later_s = classical["linear"] if is_later else 0.0
    scoring = scoring_of(loaded, row_s, budget.excludable_s, later_s=later_s)
    encoded = loaded.data.inputs.encode(splits.train), loaded.data.inputs.encode(splits.validation)
    train, validation, epochs = len(splits.train), len(splits.validation), base.recipe.train.epochs
    folded = partial(with_folds, evaluate=evaluate, train=train, rows=train + validation, row_s=row_s)

    def prepared(method: SingleMethod) -> Run:
        run = with_network(loaded.variant(base.for_rung(method).recipe))
        return replace(run, encoded=encoded, is_noted=True)

    def cost(method: SingleMethod) -> RungCost:
        build = partial(prepared, method)
        return costs.of(method, scoring, build, left_s=clock.left_s, folded=folded)

    def head_s(rows: int) -> float:
        if evaluate.folds is None:
            return BUILD_S + (rows + validation) * row_s + scoring.after_s
        return FoldTimes(train + validation, epochs, scoring).head_s(evaluate.folds)

    joins = may_join(base, loaded.data.task, splits)
    networks = NetworkCosts(scoring, cost, head_s, evaluate.folds, joins)
    methods = decisions.methods_of(search.preset)
    foresee(
        clock,
        classical,
        networks,
        methods,
        epochs=epochs,
        averages=decisions.averages(search.preset),
        ensemble=search.ensemble,
        has_model=has_model,
    )


def _classical_seconds(base: RecipeVariant, splits: Splits, task: Task) -> dict[str, float]:
    """Return the seconds of each model without a network."""
    if task.has_words:
        train = labeled_rows(splits.train)
        part = train.select(range(min(len(train), MOST_ROWS)))
        started = time.perf_counter()
        task.linear_baseline(part, splits.validation)
        return {"linear": (time.perf_counter() - started) * len(train) / len(part)}
    seconds = {}
    for name, config in classical_candidates(splits).items():
        measured = measure_classical(classical_run(base.for_classical(config), splits))
        seconds[name] = measured.fit_s + measured.evaluate_s + WRITE_S
    return seconds
