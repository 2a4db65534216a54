"""Plan a run of method classical: fit a part of the rows, and estimate the rest."""

import time
from dataclasses import dataclass, replace

import torch

from hf_finetune.pipeline.base_plan import BasePlan, row_counts
from hf_finetune.pipeline.classical.run import fit_classical_run
from hf_finetune.pipeline.context import ClassicalRun
from hf_finetune.pipeline.load_data import load_splits
from hf_finetune.utils.core_sharing import shared_cores
from hf_finetune.utils.durations import format_duration
from hf_finetune.utils.environment import hardware, memory, seconds_since_start
from hf_finetune.utils.messages import silenced

MOST_ROWS = 1_000
"""Rows of a split that are read to measure."""


@dataclass(frozen=True)
class ClassicalPlan(BasePlan):
    """What a run of method classical would do. Seconds are estimates: those of the measured rows, times their share."""

    model: str
    """The extractors and the classifier."""
    measured_rows: int
    """Training rows that were fitted to measure."""
    estimate: dict[str, float]
    """Seconds of the fit and of everything, and peak memory of this process, which read the measured rows alone."""

    def __str__(self) -> str:
        lines = (
            ("model", self.model),
            ("fit", f"about {format_duration(self.estimate['fit_s'])}"),
            ("everything", f"about {format_duration(self.estimate['total_s'])}"),
        )
        return self._lines(lines)


@shared_cores()
def plan_classical(run: ClassicalRun) -> ClassicalPlan:
    """Fit a part of the rows of a run, and estimate its time. Nothing is saved.

    Raises:
        InputError: whatever would stop the run.
    """
    start_s, splits = seconds_since_start(), run.splits
    measured = measure_classical(run)
    return ClassicalPlan(
        name=run.recipe.name,
        rows=row_counts(splits),
        labels=len(splits.labels),
        outputs=run.task.outputs,
        columns=splits.named_columns,
        notes=[*splits.notes, *run.notes],
        model=measured.model,
        measured_rows=measured.rows,
        estimate={
            "fit_s": round(measured.fit_s, 2),
            # The gate starts a process of its own.
            "total_s": round(2 * start_s + measured.fit_s + measured.evaluate_s, 2),
            **memory(torch.device("cpu")),
        },
        environment=hardware(torch.device("cpu"), 1),
    )


@dataclass(frozen=True)
class ClassicalCosts:
    """Seconds of a run of method classical, estimated from a part of its rows."""

    model: str
    rows: int
    """Training rows that were fitted."""
    fit_s: float
    evaluate_s: float
    """With the baselines."""


def measure_classical(run: ClassicalRun) -> ClassicalCosts:
    """Fit a part of the rows of a run, and estimate the seconds of all."""
    splits, rows = run.splits, row_counts(run.splits)
    measured, small = min(rows["train"], MOST_ROWS), splits
    if measured < rows["train"]:
        small = load_splits(replace(run.recipe.data, rows_per_class=None, max_train_rows=measured))
    scored = splits.validation.select(range(min(rows["validation"], MOST_ROWS)))
    part = replace(run, splits=replace(small, validation=scored, test=None))
    started = time.perf_counter()
    with silenced():
        fitted = fit_classical_run(part)
        fitted.scoring.baselines(fitted.evaluate().judged_split)
    train_s = fitted.clock.seconds("train_s")
    # The baselines are fitted to the training rows, and score the others.
    evaluate_s = (time.perf_counter() - started - train_s) * sum(rows.values()) / (measured + len(scored))
    return ClassicalCosts(fitted.trained.fitted.name, measured, train_s * rows["train"] / measured, evaluate_s)
