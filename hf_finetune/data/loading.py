"""Rows of a data set, checked: `load` divides labeled ones for a run, `stream` reads those to label or to score."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from datasets import Dataset

from hf_finetune.data.columns import choose_columns, require_columns
from hf_finetune.data.config import Kind, Role, Source, SourceSplit, SplitOptions
from hf_finetune.data.duplicates import fingerprint, first_occurrences
from hf_finetune.data.labels import ClassIds, check_classes, order_classes
from hf_finetune.data.rows import SplitRows, UnusableRow, has_labels, read_rows, to_dataset, to_table
from hf_finetune.data.sources import Split, locate
from hf_finetune.data.split_selection import Selection, note_inferred, select_splits, split_to_read
from hf_finetune.data.splits import TEST, TRAIN, VALIDATION, at_most_per_class, carve, subsample
from hf_finetune.data.unlabeled import read_for_teacher
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import Notes, listed

logger = logging.getLogger("hf_finetune")


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
    teacher_row_counts: dict[str, int] | None = None
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
    teacher_row_counts = None
    if data.selection.unlabeled:
        further, teacher_row_counts = read_for_teacher(data.selection, kind, rows, options.unlabeled, notes)
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
        teacher_row_counts=teacher_row_counts,
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


@dataclass(frozen=True)
class LabeledData:
    """Labeled rows by what they are for."""

    selection: Selection
    rows: dict[Role, SplitRows]
    labels: tuple[str, ...]
    """Class names; a row's `label` is the index."""
    unusable: dict[Role, list[UnusableRow]]
    """The rows that are left out, see `read_labeled`."""

    @property
    def places(self) -> dict[Role, str]:
        """What each split was read from."""
        return {role: split.place for role, split in self.selection.labeled.items()}

    @property
    def datasets(self) -> dict[Role, Dataset]:
        """The rows of each split."""
        return {role: to_dataset(rows.table) for role, rows in self.rows.items()}


def read_labeled(
    source: Source, kind: Kind, options: SplitOptions, notes: Notes, *, leave_out_unusable: bool = False
) -> LabeledData:
    """Read every labeled split, its labels numbered alike; the classes are those of train.

    Args:
        leave_out_unusable: leave out rows that cannot be used, instead of refusing them.

    Raises:
        InputError: see `load`; no training row can be used.
    """
    selection = select_splits(source, kind, options, notes)
    columns, train = selection.columns, selection.labeled["train"]
    unusable: dict[Role, list[UnusableRow]] = {}

    def read(role: Role, classes: ClassIds) -> pa.Table:
        aside = unusable.setdefault(role, []) if leave_out_unusable else None
        return to_table(list(read_rows(selection.labeled[role], columns, classes, unusable=aside)))

    for split in selection.labeled.values():
        require_columns(columns, split.columns, place=split.place, like=train.place)
    classes = ClassIds()
    tables: dict[Role, pa.Table] = {"train": read("train", classes)}
    if not len(tables["train"]):
        first = unusable["train"][0]
        raise InputError(f"{first.place}: {first.reason}; no training row can be used")
    declared = train.columns[columns["label"]].names
    labels = order_classes(classes.ids, declared)
    _note_classes(classes, declared, notes)
    check_classes(labels, len(tables["train"]), train.place, columns["label"])
    ids = {name: i for i, name in enumerate(labels)}
    tables["train"] = _renumbered(tables["train"], np.array([ids[name] for name in classes.ids]))
    for role in selection.labeled:
        if role != "train":
            tables[role] = read(role, ClassIds(labels, "the training rows"))
    rows = {role: SplitRows.of(table) for role, table in tables.items()}
    return LabeledData(selection, rows, labels, unusable)


def _note_classes(classes: ClassIds, declared: Sequence[str], notes: Notes) -> None:
    if absent := [name for name in declared if name not in classes.ids]:
        notes.add(f"classes without a training row are left out: {listed(absent)}")
    if len(classes.types) > 1:
        types = listed(sorted(t.__name__ for t in classes.types))
        notes.add(f"the labels are of several types ({types}) and count as their text: 1 and '1' are one class")


def _renumbered(table: pa.Table, numbers: np.ndarray) -> pa.Table:
    position = table.column_names.index("label")
    return table.set_column(position, "label", pa.array(numbers[table["label"].to_numpy()], pa.int64()))


def stream(
    source: SourceSplit, kind: Kind, *, labels: Sequence[str] | None = None, batch_rows: int = 1024
) -> Iterator[Dataset]:
    """Canonical rows in the order of the source, a part at a time (a .json file is read whole).

    Args:
        labels: the classifier's class names, to yield `label` as well. None: labels are not even read.
        batch_rows: rows of a part.

    Raises:
        InputError: as `load`, and for a label that the classifier does not know.
    """
    need_label, requested = labels is not None, source.columns(kind)
    layout = locate(source, kind=kind, labeled=need_label)

    def choose(split: Split, *, need_label: bool = need_label) -> dict[str, str]:
        return choose_columns(split.columns, requested, kind=kind, need_label=need_label, place=split.place)

    def usable(split: Split) -> bool:
        return not need_label or has_labels(split, choose(split, need_label=False).get("label"))

    split = split_to_read(layout, source.path, source.split, usable)
    if len(layout.splits) > 1:
        logger.info("%s: reading the split %s", source.path, split.name)
    for note in split.notes:
        logger.info(note)
    columns = choose(split)
    if not need_label:
        columns.pop("label", None)
    note_inferred(columns, requested, {}, Notes())
    if need_label and not has_labels(split, columns["label"]):
        raise InputError(
            f"{split.place}: every label in column {columns['label']!r} is empty or -1; only predict can use these rows"
        )
    classes = None if labels is None else ClassIds(labels, "the classifier")
    for part in read_rows(split, columns, classes, size=batch_rows):
        yield to_dataset(to_table([part]))
