"""A run of method classical: rows -> fitted pipeline -> evaluation -> parity gate -> card -> Hub."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from hf_finetune.config.recipe import Launch
from hf_finetune.data import provenance
from hf_finetune.data.dropped_rows import write_dropped
from hf_finetune.data.labels import labels_of
from hf_finetune.data.loading import Splits
from hf_finetune.features.classical import FittedClassical, fit_classical
from hf_finetune.pipeline.classical.document import document
from hf_finetune.pipeline.classical.parity import verifying
from hf_finetune.pipeline.context import ClassicalRun
from hf_finetune.pipeline.evaluate import Evaluation, Scoring, save_predictions
from hf_finetune.pipeline.out_of_fold import OutOfFold, all_rows, cross_validate, folds_of, note_on_folds
from hf_finetune.pipeline.parity import Check, recorded_checks, refuse_failed
from hf_finetune.pipeline.push import push_if_asked
from hf_finetune.pipeline.resume import refuse_changes
from hf_finetune.pipeline.run_folder import owned_folder, plain_disk_errors, replacing
from hf_finetune.pipeline.stopwatch import Stopwatch
from hf_finetune.tasks.trained_pipeline import OUTPUTS, TrainedPipeline
from hf_finetune.utils import environment
from hf_finetune.utils.console import Progress
from hf_finetune.utils.exit_status import notes_afterwards
from hf_finetune.utils.files import write_json
from hf_finetune.utils.launched import refuse_processes
from hf_finetune.utils.messages import silenced
from hf_finetune.utils.plain import to_plain

logger = logging.getLogger("hf_finetune.run")
TIMED_ROWS = 32
"""Rows that are predicted to measure the speed."""


def run_classical(run: ClassicalRun, launch: Launch, *, command: str | None = None) -> dict[str, Any]:
    """Fit, evaluate, verify, document and, if asked, push.

    A run takes seconds to minutes: one that is resumed starts anew, by the same recipe on the same rows.

    Returns:
        The content of result.json, and its `folder`.

    Raises:
        InputError: the classifier or an extractor does not suit the rows; or another recipe began the run.
        GateError: the saved pipeline does not reproduce the scores.
        PushError: see `push_if_asked`.
    """
    refuse_processes("method classical", launch.num_processes)
    with owned_folder(run.recipe.name, launch.output, resume=launch.resume) as folder:
        path = folder.path
        if folder.is_unfinished:
            refuse_changes(path, _record(run, command))
        with plain_disk_errors(path):
            result = write_classical(run, path, command=command)
    push_if_asked(path, run.recipe.hub)
    return {**result, "folder": str(path)}


def write_classical(run: ClassicalRun, folder: Path, *, command: str | None = None) -> dict[str, Any]:
    """Fit the pipeline of a run, and write its files into a folder.

    Returns:
        The content of result.json.

    Raises:
        InputError: the classifier or an extractor does not suit the rows. Nothing was written.
        GateError: the saved pipeline does not reproduce the scores.
    """
    with notes_afterwards():
        for note in (*run.splits.notes, *run.notes):
            logger.info(note)
        fitted = fit_classical_run(run)
    return finalize_classical(fitted, folder, command=command)


@dataclass(frozen=True)
class FittedRun:
    """A run whose pipeline is fitted, and of which nothing is written yet."""

    run: ClassicalRun
    trained: TrainedPipeline
    clock: Stopwatch
    out_of_fold: OutOfFold | None = None
    """None: no folds."""

    @property
    def scoring(self) -> Scoring:
        """How its rows are scored."""
        return Scoring.of(self.run)

    def evaluate(self, known: Evaluation | None = None, *, only: str | None = None) -> Evaluation:
        """Score the labeled splits.

        Args:
            known: splits that are scored already.
            only: name of the split to score. None: all.
        """
        splits, scored = {"validation": self.run.splits.validation, "test": self.run.splits.test}, {}
        with self.clock.measure("evaluate_s"):
            for name, rows in splits.items():
                if known is not None and name in known.splits:
                    scored[name] = known.splits[name]
                elif name == "validation" and self.out_of_fold is not None:
                    scored[name] = self.scoring.score_out_of_fold(self.trained.task, self.out_of_fold)
                elif rows and only in (None, name):
                    scored[name] = self.scoring.score(self.trained.task, rows, self.trained.logits)
        return Evaluation(scored)

    def judged_by(self, logits_NC: np.ndarray) -> Evaluation:
        """Return the evaluation of validation rows by logits that are known, such as those of the same pipeline without
        these rows. Its speed is measured on some of them."""
        rows, started = self.run.splits.validation, time.perf_counter()
        timed = rows.select(range(min(TIMED_ROWS, len(rows))))
        with self.clock.measure("evaluate_s"):
            self.trained.logits(timed)
            rows_per_s = len(timed) / (time.perf_counter() - started)
            scored = self.scoring.score(self.trained.task, rows, lambda _: logits_NC)
        return Evaluation({"validation": replace(scored, rows_per_s=rows_per_s)})


def on_held_out_rows(run: ClassicalRun) -> ClassicalRun:
    """Return the run whose pipeline is fitted to the validation rows as well, after the same pipeline without them was
    judged by them. The run as it is, where they were not held out from the training rows, or settle thresholds."""
    splits = run.splits
    if "validation" not in splits.held_out or run.task.calibrates:
        return run
    rows = all_rows(splits)
    note = (
        f"fitted to all {len(rows):,} rows at the end; the numbers of validation are of the same pipeline without the "
        f"{len(splits.validation):,} validation rows"
    )
    return replace(
        run, splits=replace(splits, train=rows), notes=(*run.notes, note), all_splits=run.all_splits or splits
    )


def fit_classical_run(run: ClassicalRun) -> FittedRun:
    """Fit the pipeline of a run; with folds those of the folds, and one to all rows.

    Raises:
        InputError: the classifier or an extractor does not suit the rows; or see `folds_of`.
    """
    clock = Stopwatch()
    with clock.measure("train_s", "fit the pipeline"):
        if run.recipe.evaluate.folds is None:
            return FittedRun(run, fit(run), clock)
        fold_RN = folds_of(run)
        with TemporaryDirectory() as folder, silenced():
            predicted = cross_validate(run.splits, fold_RN, Path(folder), partial(_trained_logits, run))
        splits = replace(run.splits, train=predicted.rows)
        note = note_on_folds(run.recipe.evaluate.folds, len(predicted.rows), "pipeline")
        whole = replace(run, splits=splits, notes=(*run.notes, note))
        trained = fit(whole)
    if run.task.calibrates:
        calibrated = run.task.calibrated(predicted.labels, run.task.scores(predicted.logits_RNC[0]))
        trained = replace(trained, task=calibrated)
    return FittedRun(whole, trained, clock, predicted)


def _trained_logits(run: ClassicalRun, splits: Splits, _: np.ndarray) -> tuple[np.ndarray, float]:
    """Fit to the training rows of other splits; return logits of the validation rows, and the seconds they took."""
    trained = fit(replace(run, splits=splits))
    started = time.perf_counter()
    return trained.logits(splits.validation), time.perf_counter() - started


def finalize_classical(
    fitted: FittedRun, folder: Path, known: Evaluation | None = None, *, command: str | None = None
) -> dict[str, Any]:
    """Save, evaluate, verify and document a fitted run.

    Args:
        known: splits that are scored already.

    Returns:
        The content of result.json.

    Raises:
        GateError: the saved pipeline does not reproduce the scores.
    """
    record = _save(fitted, folder, command)
    evaluation = fitted.evaluate(known)
    with fitted.clock.measure("baselines_s"):
        baselines = fitted.scoring.baselines(evaluation.judged_split, fitted.out_of_fold)
    evaluation = replace(evaluation, baselines=baselines)
    save_predictions(folder, evaluation)
    with verifying(fitted.run, fitted.trained, folder, evaluation, fitted.clock) as checks:
        result = _document(fitted, folder, evaluation, checks, record)
    refuse_failed(recorded_checks(result))
    return result


def set_aside_classical(
    fitted: FittedRun, folder: Path, evaluation: Evaluation, *, command: str | None = None
) -> dict[str, Any]:
    """Save a run that another one has beaten on validation rows: without test rows, baselines and parity gate.

    Returns:
        The content of its result.json.
    """
    record = _save(fitted, folder, command)
    save_predictions(folder, evaluation)
    return _document(fitted, folder, evaluation, dict, record)


def _document(
    fitted: FittedRun,
    folder: Path,
    evaluation: Evaluation,
    checks: Callable[[], Mapping[str, Check]],
    record: Mapping[str, Any],
) -> dict[str, Any]:
    run, trained, predicted = fitted.run, fitted.trained, fitted.out_of_fold
    folds = None if predicted is None else predicted.to_dict(trained.task, run.recipe.evaluate.group)
    return document(run, trained, folder, evaluation, checks, clock=fitted.clock, record=record, out_of_fold=folds)


def _save(fitted: FittedRun, folder: Path, command: str | None) -> dict[str, Any]:
    """Write the pipeline and the record of the run, and return the record."""
    run, record = fitted.run, _record(fitted.run, command)
    write_json(folder / "recipe.json", record)
    if dropped := run.splits.dropped:
        write_dropped(folder / "dropped.csv", {str(role): rows for role, rows in dropped.items()})
    with Progress("save"), replacing(folder / "classical") as path:
        fitted.trained.save(path)
    provenance.save_keys(folder, [run.splits.train], None)
    return record


def fit(run: ClassicalRun) -> TrainedPipeline:
    """Fit the pipeline to the training rows, see `as_trained`."""
    splits, outputs = run.splits, OUTPUTS[run.task.activation]
    config = run.recipe.classical
    options: dict[str, Any] = {"names": splits.columns, "cache_gb": run.recipe.batching.cache_gb}
    fitted = fit_classical(config, splits.train, labels=splits.labels, outputs=outputs, **options)
    return as_trained(run, fitted)


def as_trained(run: ClassicalRun, fitted: FittedClassical) -> TrainedPipeline:
    """Return a fitted pipeline as the result of a run; of tags, their thresholds are fitted to the validation rows."""
    splits, task = run.splits, run.task
    trained = TrainedPipeline(
        fitted,
        task,
        run.recipe.kind,
        pairs="text_pair" in splits.columns,
        name=run.recipe.name,
        label_values=splits.label_values,
        columns={n: tuple(c) if isinstance(c, list) else c for n, c in splits.named_columns.items()},
        label_separator=splits.label_separator,
        sequence=run.recipe.sequence,
    )
    if task.calibrates:
        scores_NC = task.scores(trained.logits(splits.validation))
        trained = replace(trained, task=task.calibrated(labels_of(splits.validation), scores_NC))
    return trained


def _record(run: ClassicalRun, command: str | None) -> dict[str, Any]:
    """Return the content of recipe.json."""
    return {
        "recipe": to_plain(run.recipe),
        "fingerprint": run.splits.fingerprint,
        "labels": list(run.splits.labels),
        "versions": environment.versions() | {name: version(name) for name in ("scikit-learn", "skops")},
        "command": command,
    }
