"""The rows of a run: read, divided into train, validation and test, and checked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from hf_finetune.data.config import Kind, Role, Source, SplitOptions
from hf_finetune.data.duplicates import fingerprint, first_occurrences
from hf_finetune.data.labeled import LabeledData, SplitRows, read_labeled
from hf_finetune.data.rows import to_dataset
from hf_finetune.data.splits import TEST, TRAIN, VALIDATION, at_most_per_class, carve, subsample
from hf_finetune.data.unlabeled import read_for_teacher
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import Notes, listed


@dataclass(frozen=True)
class Splits:
    """Rows to train on, to choose by and to judge by: `text` (and `text_pair`) or `image`, `label`, `row`.

    `label` is an index into `labels`; `row` counts from 0 in the split that the row was read from.
    """

    train: Dataset
    validation: Dataset
    test: Dataset | None
    """None without labeled test rows."""
    labels: tuple[str, ...]
    """Class names; a row's `label` is the index."""
    columns: dict[str, str]
    """The source's column by canonical name."""
    fingerprint: str
    """SHA-256 over the contents of all splits."""
    duplicates: dict[str, int]
    """By split, its rows whose exact input is in train as well."""
    notes: tuple[str, ...]
    """What was inferred, carved and ignored."""
    unlabeled: dict[str, int] | None = None
    """Of the rows without a label, which stand behind the others in train with the label -1: how many they are, and how
    many were left out, see `unlabeled.read_for_teacher`. None: none were named."""
    left_out: Dataset | None = None
    """With `keep_left_out`: rows of train that `rows_per_class` and `max_train_rows` did not draw, if any."""


def load(source: Source, kind: Kind, options: SplitOptions | None = None) -> Splits:
    """Find, read, check and divide labeled rows.

    Splits come from the data when it has them. Test rows are carved from train only with a `test_fraction`; validation
    rows when there are none, from what is left. A test or validation split without any label does not count.

    Raises:
        InputError: for whatever keeps the rows from being used, naming file, row or field, and the remedy.
    """
    options, notes = options or SplitOptions(), Notes()
    data = read_labeled(source, kind, options, notes)
    rows = _carve_missing(data, options, notes)
    drawn_N = _draw_train(rows["train"].labels_N, options, notes)
    left_out = rows["train"].where(~drawn_N) if options.keep_left_out and not drawn_N.all() else None
    if not drawn_N.all():
        rows["train"] = rows["train"].where(drawn_N)
    duplicates = _count_duplicates(rows, notes)
    unlabeled = None
    if data.selection.unlabeled:
        further, unlabeled = read_for_teacher(data.selection, kind, rows, options.unlabeled, notes)
        rows["train"] = rows["train"].followed_by(further)
    roles: tuple[Role, ...] = ("train", "validation", "test")
    contents = {str(role): (rows[role].digests, rows[role].labels_N) for role in roles if role in rows}
    digest = fingerprint(data.labels, contents)
    datasets = {role: to_dataset(part.table, f"{digest[:24]}-{role}") for role, part in rows.items()}
    return Splits(
        train=datasets["train"],
        validation=datasets["validation"],
        test=datasets.get("test"),
        labels=data.labels,
        columns=data.selection.columns,
        fingerprint=digest,
        duplicates=duplicates,
        notes=tuple(notes),
        unlabeled=unlabeled,
        left_out=None if left_out is None else to_dataset(left_out.table, f"{digest[:24]}-left-out"),
    )


def _carve_missing(data: LabeledData, options: SplitOptions, notes: Notes) -> dict[Role, SplitRows]:
    """The splits that the data have, and those that are carved from train."""
    rows = dict(data.rows)
    if "test" not in rows and options.test_fraction > 0:
        rows["train"], rows["test"] = _carved(data, rows["train"], "test", options.test_fraction, options, notes)
    if "validation" not in rows:
        fraction = options.validation_fraction
        rows["train"], rows["validation"] = _carved(data, rows["train"], "validation", fraction, options, notes)
    if "test" not in rows:
        notes.add("no labeled test rows: nothing is claimed about test")
    return rows


def _carved(
    data: LabeledData, train: SplitRows, role: Role, fraction: float, options: SplitOptions, notes: Notes
) -> tuple[SplitRows, SplitRows]:
    """The rest of train, and the rows that are carved from it."""
    if fraction <= 0:
        raise InputError(
            f"data.{role}_fraction {fraction}: the data has no {role} split; name one by --{role}, "
            "or carve a share above 0"
        )
    source, first_N = data.selection.labeled["train"], first_occurrences(train.digests)
    seed = (options.seed, TEST if role == "test" else VALIDATION)
    try:
        mask_N = carve(train.labels_N, first_N, fraction=fraction, seed=seed)
    except InputError as error:
        raise InputError(f"{source.place}: no {role} split, and its {error}; name a split by --{role}") from None
    notes.add(
        f"{role}: {int(mask_N.sum())} of {len(mask_N)} rows carved from {source.name}, each class by its share "
        f"(fraction {fraction:g}, split_seed {options.seed})"
    )
    if repeated := int((first_N != np.arange(len(first_N))).sum()):
        notes.add(f"{role}: {repeated} rows repeat an earlier one exactly; they stay on the same side of the carve")
    if single := np.flatnonzero(np.bincount(train.labels_N) == 1).tolist():
        names = listed([data.labels[label] for label in single])
        notes.add(f"classes of a single row, which stays in train: {names}")
    return train.where(~mask_N), train.where(mask_N)


def _draw_train(labels_N: np.ndarray, options: SplitOptions, notes: Notes) -> np.ndarray:
    """Mask (N,), true for the rows that stay in train."""
    rows, seed = np.arange(len(labels_N)), (options.seed, TRAIN)
    per_class, most = options.rows_per_class, options.max_train_rows
    if per_class is not None:
        rows = np.flatnonzero(at_most_per_class(labels_N, count=per_class, seed=seed))
        if len(rows) < len(labels_N):
            notes.add(
                f"train: {len(rows)} of {len(labels_N)} rows drawn, {per_class} of a class at most "
                f"(split_seed {options.seed})"
            )
    if most is not None and most < len(rows):
        notes.add(f"train: {most} of {len(rows)} rows drawn, each class by its share (split_seed {options.seed})")
        rows = rows[subsample(labels_N[rows], count=most, seed=seed)]
    return np.isin(np.arange(len(labels_N)), rows)


def _count_duplicates(rows: dict[Role, SplitRows], notes: Notes) -> dict[str, int]:
    trained = set(rows["train"].digests)
    counts = {str(role): sum(d in trained for d in part.digests) for role, part in rows.items() if role != "train"}
    for role, part in rows.items():
        if count := counts.get(role):
            notes.add(f"duplicates: {count} of {len(part)} {role} rows are in train too, exactly alike")
    return counts
