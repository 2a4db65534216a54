"""Predict every row by a model that was not trained on it, in place of a split that trains nothing.

Each fold trains the run's recipe on the other folds, a network for as many epochs and with its last weights: nothing
is chosen by the rows that it predicts, but for what the head reads, which all folds have in common. The run itself then
trains on all rows, and reports the estimate of the folds.

Legend: R repeats, N rows, C classes.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from hf_finetune.data.duplicates import dataset_digests, first_occurrences
from hf_finetune.data.groups import group_numbers, joined_groups
from hf_finetune.data.labels import labels_of
from hf_finetune.data.loading import Splits
from hf_finetune.errors import InputError
from hf_finetune.evaluation.folds import fold_numbers
from hf_finetune.pipeline.context import ClassicalRun, Run
from hf_finetune.tasks.base import Task
from hf_finetune.utils.files import atomic_file, make_folder

logger = logging.getLogger("hf_finetune.run")
FOLDER = "folds"


@dataclass(frozen=True)
class OutOfFold:
    """The predictions of every row, by models that were not trained on it."""

    rows: Dataset
    logits_RNC: np.ndarray
    fold_RN: np.ndarray
    """Fold of each row in each repeat."""
    seconds: float
    """Of all folds, those before a restart included."""
    predict_s: float
    """Seconds of their predictions alone."""

    @property
    def labels(self) -> Any:
        """Labels of the rows."""
        return labels_of(self.rows)

    def to_dict(self, task: Task, group: str | None) -> dict[str, Any]:
        """Return the section of result.json, with the metric of each fold of each repeat."""
        labels, judged = self.labels, task.judged_by
        by_fold = [
            [
                round(task.values(labels[fold_N == n], task.scores(logits_NC[fold_N == n]))[judged], 4)
                for n in np.unique(fold_N)
            ]
            for logits_NC, fold_N in zip(self.logits_RNC, self.fold_RN, strict=True)
        ]
        return {
            "folds": int(self.fold_RN.max()) + 1,
            "repeats": len(self.fold_RN),
            "group": group,
            "rows": len(self.rows),
            judged: by_fold,
            "seconds": round(self.seconds, 2),
        }


def all_rows(splits: Splits) -> Dataset:
    """Return the training and the validation rows."""
    return concatenate_datasets([splits.train, splits.validation])


def note_on_folds(folds: int | None, rows: int, model: str) -> str:
    """Return what the numbers of validation stand for.

    Args:
        model: network or pipeline.
    """
    return (
        f"{folds} folds: every row is predicted by a {model} that was not trained on it, which the numbers of "
        f"validation stand for; the saved {model} is trained on all {rows:,} rows"
    )


def on_all_rows(run: Run) -> Run:
    """Return the run that trains on its validation rows as well. The rows are encoded once for it and all folds."""
    splits, inputs = run.data.splits, run.data.inputs
    train, validation = run.encoded or (inputs.encode(splits.train), inputs.encode(splits.validation))
    rows, encoded = all_rows(splits), all_rows(replace(splits, train=train, validation=validation))
    note = note_on_folds(run.recipe.evaluate.folds, len(rows), "network")
    whole = run.variant(splits=replace(splits, train=rows))
    return replace(whole, notes=(*run.notes, note), encoded=(encoded, validation))


def folds_of(run: Run | ClassicalRun) -> np.ndarray:
    """Return the fold of each training and validation row in each repeat, shape (R, N).

    Raises:
        InputError: there are fewer different rows or groups than folds, or no such column; or the task has words.
    """
    recipe, options = run.recipe, run.recipe.evaluate
    splits, task = (run.splits, run.task) if isinstance(run, ClassicalRun) else (run.data.splits, run.data.task)
    assert options.folds is not None, "called with folds"
    if task.has_words:
        raise InputError(f"evaluate.folds: expected null with {task.name}, got {options.folds}")
    rows = all_rows(splits)
    groups_N = first_occurrences(dataset_digests(rows))
    if options.group is not None:
        parts = {"train": splits.train["row"][:], "validation": splits.validation["row"][:]}
        named_N = group_numbers(recipe.data.source, recipe.kind, options.group, parts, splits.held_out)
        groups_N = joined_groups(named_N, groups_N)
    labels_N = labels_of(rows) if task.has_classes else None
    seeds = range(recipe.train.seed, recipe.train.seed + options.repeats)
    fold_RN = np.stack([fold_numbers(groups_N, labels_N, count=options.folds, seed=seed) for seed in seeds])
    if labels_N is not None:
        _refuse_single_class(fold_RN, labels_N, task.labels)
    return fold_RN


def _refuse_single_class(fold_RN: np.ndarray, labels_N: np.ndarray, names: Sequence[str]) -> None:
    """Refuse folds of which one has all rows of the only other class.

    Raises:
        InputError: without it a model would see a single class.
    """
    for fold_N in fold_RN:
        for fold in np.unique(fold_N):
            if len(left := np.unique(labels_N[fold_N != fold])) < 2:
                raise InputError(
                    f"evaluate.folds: all rows but those of {names[left[0]]!r} are in one fold, without which a model "
                    "would see a single class; label more different rows, or leave it out"
                )


def cross_validate(
    splits: Splits, fold_RN: np.ndarray, folder: Path, trained_logits: Callable[[Splits, np.ndarray], tuple[Any, float]]
) -> OutOfFold:
    """Train and predict every fold, or take the predictions that a resumed run has made already.

    Args:
        splits: those of the run.
        fold_RN: see `folds_of`.
        folder: of the run, whose checkpoints/ takes the predictions.
        trained_logits: trains on the training rows of the splits; returns the logits of the validation rows, and
            the seconds of predicting them. Its second argument is whether a row of `all_rows` is held out, shape (N,).
    """
    rows = all_rows(splits)
    logits_RNC = np.zeros((*fold_RN.shape, len(splits.labels)), dtype=np.float32)
    seconds, predict_s = 0.0, 0.0
    stored = folder / "checkpoints" / FOLDER
    make_folder(stored)
    for repeat, fold_N in enumerate(fold_RN):
        for fold in np.unique(fold_N).tolist():
            path, held_out = stored / f"{repeat}-{fold}.npz", np.flatnonzero(fold_N == fold)
            if not path.exists():
                started = time.perf_counter()
                logger.info("repeat %d, fold %d of %d", repeat + 1, fold + 1, int(fold_RN.max()) + 1)
                others = rows.select(np.flatnonzero(fold_N != fold))
                parts = replace(splits, train=others, validation=rows.select(held_out), test=None)
                logits, fold_predict_s = trained_logits(parts, fold_N == fold)
                fold_s = time.perf_counter() - started
                with atomic_file(path) as temporary, temporary.open("wb") as file:
                    np.savez(file, logits=np.asarray(logits, np.float32), seconds=fold_s, predict_s=fold_predict_s)
            with np.load(path) as fold_part:
                logits_RNC[repeat, held_out] = fold_part["logits"]
                seconds, predict_s = seconds + float(fold_part["seconds"]), predict_s + float(fold_part["predict_s"])
    return OutOfFold(rows, logits_RNC, fold_RN, seconds, predict_s)
