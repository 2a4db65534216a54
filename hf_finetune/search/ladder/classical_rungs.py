"""The rungs without a network: constants, which are measured alone, and classical models, which can be the result.

Classical models take seconds, so that there is a model to use whatever the budget. The time of their gate, which is
mostly that of imports, is not counted.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from hf_finetune.data.config import FEATURE
from hf_finetune.data.loading import Splits
from hf_finetune.data.unlabeled import labeled_rows
from hf_finetune.errors import InputError
from hf_finetune.features.baselines import BASELINE, BASELINE_OF_IMAGES, rows_within_limits
from hf_finetune.features.config import BoostedTrees, Classical, ColorHistogram, GradientHistogram
from hf_finetune.features.pipelines import logits_of
from hf_finetune.pipeline.classical.run import (
    finalize_classical,
    fit_classical_run,
    on_held_out_rows,
    set_aside_classical,
)
from hf_finetune.pipeline.context import ClassicalRun, Run
from hf_finetune.pipeline.evaluate import Scoring
from hf_finetune.pipeline.run_folder import is_finished
from hf_finetune.search.ladder import decisions
from hf_finetune.search.ladder.folds import constants_out_of_fold
from hf_finetune.search.ladder.standing import Standing
from hf_finetune.search.ladder.state import RungRecord, read_scores, write_scores
from hf_finetune.search.recipe_variant import RecipeVariant
from hf_finetune.utils.console import Progress


def classical_candidates(splits: Splits) -> dict[str, Classical]:
    """Return the classical models that are tried on these rows, by the name of their rung, the simplest first."""
    if "image" in splits.train.column_names:
        histograms = Classical(BASELINE_OF_IMAGES, (ColorHistogram(), GradientHistogram()))
        candidates = {"linear": Classical(BASELINE_OF_IMAGES), "histograms": histograms}
    else:
        candidates = {"linear": Classical(BASELINE)}
    if any(name.startswith(FEATURE) for name in splits.train.column_names):
        # Numbers matter by thresholds as often as by their size.
        candidates["trees"] = Classical(BoostedTrees(learning_rate=0.1))
    return candidates


def climb_classical(standing: Standing, base: RecipeVariant, run: Run, *, command: str | None) -> None:
    """Climb the rungs without a network that are not done yet.

    Args:
        run: the prepared one of the head, on the same rows.
        command: the command line, for the card.
    """
    if standing.state.find("head"):
        return
    splits, task = run.data.splits, standing.task
    train = labeled_rows(splits.train)
    folds = standing.state.folds
    constants = task.constants(train, splits.validation) if folds is None else constants_out_of_fold(task, run)
    for name, baseline in constants.items():
        _measure(standing, name, baseline.scores_NC, started=time.perf_counter())
    if task.has_words:
        if standing.state.find("linear") is None:
            started = time.perf_counter()
            with Progress("fit the linear model"):
                baseline = task.linear_baseline(train, splits.validation)
            _measure(standing, "linear", baseline.scores_NC, started=started, title=baseline.name)
        return
    for name, config in classical_candidates(splits).items():
        if standing.state.find(name) is None:
            variant, ensembles = base.for_classical(config), base.recipe.search.ensemble
            _rung(standing, name, classical_run(variant, splits), command=command, ensembles=ensembles)


def classical_run(variant: RecipeVariant, splits: Splits) -> ClassicalRun:
    """Return the run on as many labeled training rows as a linear model is fitted to in seconds; with folds on all."""
    if variant.recipe.evaluate.folds is not None:
        return ClassicalRun(variant.recipe, splits)
    train = labeled_rows(splits.train)
    chosen = rows_within_limits(train)
    if len(chosen) == len(splits.train):
        return ClassicalRun(variant.recipe, splits)
    fewer = replace(splits, train=train.select(chosen), fingerprint=f"{splits.fingerprint} {len(chosen)} rows")
    return ClassicalRun(variant.recipe, fewer, all_splits=splits)


def _measure(standing: Standing, name: str, scores_NC: object, *, started: float, title: str | None = None) -> None:
    """Judge a model that cannot be saved, unless that is done."""
    if standing.state.find(name) is None:
        folder = standing.state.folder / standing.state.next_folder(name)
        write_scores(folder, scores_NC)
        standing.judge(name, scores_NC, folder, started=started, title=title, is_model=False)


def _rung(standing: Standing, name: str, run: ClassicalRun, *, command: str | None, ensembles: bool) -> None:
    started = time.perf_counter()
    folder = standing.state.folder / standing.state.next_folder(name)
    if is_finished(folder):
        # A kill came before it was recorded.
        standing.judge(name, read_scores(folder), folder, started=started)
        return
    # A student reads its teachers from the disk.
    later = decisions.writes_later(standing.budget.left_s) and not ensembles
    if later and name == "linear" and standing.state.folds is None and standing.task.baseline_is_pipeline:
        _judge_baseline(standing, run, folder, command=command, started=started)
        return
    try:
        fitted = fit_classical_run(run)
    except InputError as error:
        standing.record(RungRecord(name, f"left: {error}"))
        return
    evaluation = fitted.evaluate(only="validation")
    settled_NC = fitted.trained.task.settled(evaluation.judged_split.scores_NC)
    write_scores(folder, settled_NC)

    def finish(promoted: bool) -> None:
        if promoted:
            finalize_classical(fitted, folder, evaluation, command=command)
            standing.budget.exclude(fitted.clock.seconds("parity_s"))
        else:
            set_aside_classical(fitted, folder, evaluation, command=command)

    title = fitted.trained.fitted.name
    standing.judge(name, settled_NC, folder, started=started, title=title, finish=finish, later=later)


def _judge_baseline(
    standing: Standing, run: ClassicalRun, folder: Path, *, command: str | None, started: float
) -> None:
    """Judge the linear model as the baseline of the networks, which is fitted in any case; it is fitted as a pipeline
    that can be saved at the end, if no network is better, and then to all rows."""
    baseline = Scoring.of(run).fitted_baselines(run.splits.validation)["linear"]
    settled_NC = standing.task.settled(baseline.scores_NC)
    write_scores(folder, settled_NC)

    def finish(promoted: bool) -> None:
        assert promoted, "it is written at the end"
        whole = on_held_out_rows(run)
        fitted = fit_classical_run(whole)
        known = None if whole is run else fitted.judged_by(logits_of(baseline.scores_NC, fitted.trained.fitted.outputs))
        finalize_classical(fitted, folder, known, command=command)
        standing.budget.exclude(fitted.clock.seconds("parity_s"))

    standing.judge("linear", settled_NC, folder, started=started, title=baseline.name, finish=finish, later=True)
