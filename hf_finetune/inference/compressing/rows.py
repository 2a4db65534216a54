"""The rows of `compress`: those that steps read, those that choose, and those of the final number."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from hf_finetune.compression.steps import StepRows
from hf_finetune.config.compress import Compress
from hf_finetune.config.data import ImageData, TextData
from hf_finetune.data import provenance
from hf_finetune.data.config import Source
from hf_finetune.data.loading import Splits
from hf_finetune.data.memory import is_held, is_in_memory
from hf_finetune.data.unlabeled import labeled_rows
from hf_finetune.errors import InputError
from hf_finetune.hub.run_facts import RunFacts
from hf_finetune.pipeline.load_data import load_splits
from hf_finetune.tasks.trained_model import TrainedModel, run_folder
from hf_finetune.utils.messages import counted, listed

CALIBRATION_ROWS = 512
FEWEST = 20
"""Rows by which a candidate is chosen, or the final number is measured, at least."""
AGAIN = ("path", "config_name", "revision")
SPLIT_SEED = 4
"""Of the halves of validation rows, where there are no test rows."""


@dataclass(frozen=True)
class CompressRows:
    """Labeled canonical rows."""

    steps: StepRows
    choosing: Dataset
    final: Dataset
    """None of them chooses."""
    splits: Splits
    final_is_test: bool
    """Else `choosing` and `final` are the halves of the validation rows."""
    is_own: bool
    """Whether they are the data that the run was trained on."""
    notes: tuple[str, ...] = ()


def load_rows(classifier: TrainedModel, source: Source | None, options: Compress) -> CompressRows:
    """Load the rows of a source, or of the data of the run.

    They are split as those of the run. Where there are no test rows, half of the validation rows choose. Rows that the
    run was trained on neither choose nor count.

    Raises:
        InputError: they cannot be read, have other labels, or are too few.
    """
    facts = _facts(run_folder(classifier.files))
    data = _data(classifier, facts, source)
    is_own = facts is not None and _place(data) == _place(facts.recipe.data)
    splits = load_splits(data, group=facts.recipe.evaluate.group if facts is not None and is_own else None)
    splits = replace(splits, train=_with_labels(splits.train, splits, classifier))
    train = labeled_rows(splits.train)
    notes: list[str] = []
    judged = [_unseen(classifier, splits.validation, "validation", notes)]
    if splits.test is not None:
        judged.append(_unseen(classifier, splits.test, "test", notes))
    judged = [_with_labels(rows, splits, classifier) for rows in judged]
    rng = np.random.default_rng(SPLIT_SEED)
    if len(judged) == 1:
        order = rng.permutation(len(judged[0]))
        judged = [judged[0].select(np.sort(half)) for half in np.array_split(order, 2)]
        notes.append("no test rows: half of the validation rows choose, the other half give the final number")
    choosing, final = (_drawn(rows, options.rows, rng) for rows in judged)
    if min(len(choosing), len(final)) < FEWEST:
        few = f"{counted(len(choosing), 'row')} to choose by, and {counted(len(final), 'row')} for the final number"
        raise InputError(f"{data.path}: expected {FEWEST} of each, got {few}; name more rows by --data")
    calibration = _drawn(train, CALIBRATION_ROWS, rng)
    steps = StepRows(train, calibration, classifier)
    return CompressRows(steps, choosing, final, splits, splits.test is not None, is_own, tuple(notes))


def _facts(folder: Path) -> RunFacts | None:
    """Return what a run was. None: the model is of no run."""
    return RunFacts.read(folder) if (folder / "recipe.json").is_file() else None


def _place(data: TextData | ImageData) -> tuple[Any, ...]:
    path = data.path if is_in_memory(data.path) else str(Path(data.path).expanduser().absolute())
    return path, data.config_name, data.revision


def _data(classifier: TrainedModel, facts: RunFacts | None, source: Source | None) -> TextData | ImageData:
    """Return where the rows are and how they are split: as those of the run, with what `source` names."""
    if facts is None and source is None:
        raise InputError(f"{classifier.name}: no recipe.json names its data; name rows by --data")
    if facts is None:
        assert source is not None
        kind = TextData if classifier.kind == "text" else ImageData
        data: Any = kind(source.path, task=classifier.task.name)
    else:
        data = facts.recipe.data
    if source is None:
        if not is_held(data.path):
            raise InputError(f"{classifier.name}: it was trained on a table in memory; name rows by --data")
        return data
    default, names = Source(""), {field.name for field in fields(data)}
    named = {
        name: value
        for name, value in vars(source).items()
        if name in names and (value != getattr(default, name) or name in AGAIN)
    }
    changed = replace(data, **named)
    if _place(changed) == _place(data) and facts is not None:
        return changed
    # Other splits, by names of their own.
    return replace(changed, validation=None, test=None, unlabeled=(), max_train_rows=None, rows_per_class=None)


def _unseen(classifier: TrainedModel, rows: Dataset, split: str, notes: list[str]) -> Dataset:
    """Leave out the rows that the run was trained on."""
    trained = provenance.trained_on(str(run_folder(classifier.files)))
    if trained is None:
        return rows
    seen_N = np.isin(provenance.row_keys(rows), trained)
    if not seen_N.any():
        return rows
    notes.append(f"{counted(int(seen_N.sum()), f'{split} row')} left out, on which the model was trained")
    return rows.select(np.flatnonzero(~seen_N))


def _with_labels(rows: Dataset, splits: Splits, classifier: TrainedModel) -> Dataset:
    """Return rows whose labels are numbered as those of the classifier.

    Raises:
        InputError: they have other labels.
    """
    if splits.labels == classifier.labels:
        return rows
    unknown = [label for label in splits.labels if label not in classifier.labels]
    if unknown or not classifier.task.has_classes:
        raise InputError(
            f"label: expected those of the model ({listed(classifier.labels)}), got {listed(unknown or splits.labels)}"
        )
    ids = np.array([classifier.labels.index(label) for label in splits.labels] + [-1])
    labels = ids[np.asarray(rows["label"][:])]
    return rows.remove_columns("label").add_column("label", labels.tolist())


def _drawn(rows: Dataset, most: int, rng: np.random.Generator) -> Dataset:
    if len(rows) <= most:
        return rows
    return rows.select(np.sort(rng.permutation(len(rows))[:most]))
