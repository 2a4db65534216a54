"""Read and check the labeled rows of a run, and split them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from hf_finetune.data.columns import require_columns
from hf_finetune.data.config import Kind, Role, Source, SplitOptions, TaskName
from hf_finetune.data.duplicates import fingerprint, first_occurrences
from hf_finetune.data.groups import group_numbers, joined_groups
from hf_finetune.data.labels import may_be_ordered
from hf_finetune.data.rows import (
    SplitRows,
    UnusableRow,
    describe_dropped,
    describe_without_gold,
    read_rows,
    to_dataset,
    to_table,
    with_label,
)
from hf_finetune.data.split_selection import Selection, select_splits
from hf_finetune.data.splits import SEED_STREAMS, at_most_per_class, hold_out_groups
from hf_finetune.data.targets.base import LabelColumn, LabelReader, Targets
from hf_finetune.data.targets.choose import check_label_kind, infer_task
from hf_finetune.data.targets.single_label import SingleLabel
from hf_finetune.data.unlabeled import read_for_teacher
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import Notes, counted, listed, plural
from hf_finetune.utils.sequences import TEXTS_LOOKED_AT, SequenceReader, describe, looks_like


@dataclass(frozen=True)
class Splits:
    """Training, validation and test rows with the columns `text` (and `text_pair`) or `image`, `label` and `row`.

    `label` is an index into `labels`, or a list: a 0 or 1 for each of the tags `labels`, the numbers of the targets
    `labels`, or an index for each word, whose bounds in the text are in `bounds`. `row` is the position in the
    split that the row was read from.
    """

    train: Dataset
    validation: Dataset
    test: Dataset | None
    """None without labeled test rows."""
    labels: tuple[str, ...]
    """Class names, in the order of the class ids; or the names of tags or targets."""
    columns: dict[str, str]
    """The source's column by canonical name."""
    fingerprint: str
    """SHA-256 of the contents of all splits."""
    duplicates: dict[str, int]
    """Rows of each evaluation split whose exact input is a training row too."""
    notes: tuple[str, ...]
    """What was inferred, held out and ignored."""
    unlabeled_counts: dict[str, int] | None = None
    """Counts of unlabeled rows, see `unlabeled.read_for_teacher`. They follow the labeled rows of `train`, with label
    -1. None without unlabeled rows."""
    label_values: dict[str, str] = field(default_factory=dict)
    """The names of labels that the data number, if `label_names` names them."""
    held_out: tuple[Role, ...] = ()
    """The splits that were held out from train, as the data has none."""
    drawn: tuple[Role, ...] = ()
    """The splits of which a part was drawn, as there is no time for all of their rows."""
    dropped: dict[Role, list[UnusableRow]] | None = None
    """By split the rows that were left out as unusable. None: they would have been refused."""
    left_out: Dataset | None = None
    """Training rows that `rows_per_class` and `max_train_rows` leave out, if requested and if there are any."""
    task: TaskName = "single-label"
    label_separator: str | None = None
    """Character between the tags of a text."""
    label_columns: tuple[str, ...] = ()
    """The source's columns of the tags or targets, if each has its own."""

    @property
    def named_columns(self) -> dict[str, str | list[str]]:
        """`columns`, with a list of several label columns."""
        return {**self.columns, **({"label": list(self.label_columns)} if self.label_columns else {})}


def load(
    source: Source,
    kind: Kind,
    options: SplitOptions | None = None,
    *,
    keep_left_out: bool = False,
    group: str | None = None,
) -> Splits:
    """Find, read, check and split labeled rows.

    Splits come from the data when it has them. Test rows are held out from train only with a `test_fraction`, and
    validation rows, from the rest, when the data has none. A test or validation split without any label is ignored.

    Args:
        keep_left_out: return the rows that `rows_per_class` and `max_train_rows` leave out as well.
        group: column whose rows of one value are on one side where some are held out.

    Raises:
        InputError: the rows cannot be used; names file, row or field, and the remedy.
    """
    options, notes = options or SplitOptions(), Notes()
    data = read_labeled(source, kind, options, notes)
    groups = None if group is None else partial(_groups, source, kind, group)
    rows = _hold_out_missing(data, options, notes, groups)
    drawn_N = _draw_train(data.targets, rows["train"].labels, options, notes)
    left_out = rows["train"].where(~drawn_N) if keep_left_out and not drawn_N.all() else None
    if not drawn_N.all():
        rows["train"] = rows["train"].where(drawn_N)
    duplicates = _count_duplicates(rows, notes)
    unlabeled_counts = None
    if data.selection.unlabeled:
        sequences = SequenceReader.of(source.sequence)
        unlabeled, unlabeled_counts = read_for_teacher(data.selection, kind, rows, options.unlabeled, notes, sequences)
        rows["train"] = rows["train"].followed_by(unlabeled)
    roles: tuple[Role, ...] = ("train", "validation", "test")
    contents = {str(role): (rows[role].digests, rows[role].labels) for role in roles if role in rows}
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
        unlabeled_counts=unlabeled_counts,
        label_values=data.label_values,
        held_out=tuple(role for role in roles if role in rows and role not in data.rows),
        dropped=data.unusable if source.drop_bad_rows else None,
        left_out=None if left_out is None else to_dataset(left_out.table, f"{digest[:24]}-left-out"),
        task=data.targets.task,
        label_separator=source.label_separator,
        label_columns=data.label_columns,
    )


def _groups(source: Source, kind: Kind, column: str, train: SplitRows) -> np.ndarray:
    """Return numbers of the training rows, of which equal ones stay together: rows of one value of a column, and equal
    rows."""
    named_N = group_numbers(source, kind, column, {"train": train.table["row"].to_pylist()}, ())
    return joined_groups(named_N, first_occurrences(train.digests))


def _hold_out_missing(
    data: LabeledData, options: SplitOptions, notes: Notes, groups: Callable[[SplitRows], np.ndarray] | None
) -> dict[Role, SplitRows]:
    """Return the splits of the data, with missing test and validation rows held out from train.

    Args:
        groups: returns numbers of training rows, of which equal ones stay together. None: equal rows do.
    """
    rows, missing = dict(data.rows), list[Role]()
    if "test" not in rows and options.test_fraction > 0:
        missing.append("test")
    if "validation" not in rows:
        missing.append("validation")
    for role in missing:
        train = rows["train"]
        mask_N = _held_out(data, train, role, options, notes, None if groups is None else groups(train))
        rows["train"], rows[role] = train.where(~mask_N), train.where(mask_N)
    if "test" not in rows:
        notes.add("no labeled test rows: nothing is claimed about test")
    return rows


def _held_out(
    data: LabeledData,
    train: SplitRows,
    role: Role,
    options: SplitOptions,
    notes: Notes,
    groups_N: np.ndarray | None,
) -> np.ndarray:
    """Return the mask (N,) of the training rows that are held out for `role`."""
    fraction = options.test_fraction if role == "test" else options.validation_fraction
    if fraction <= 0:
        raise InputError(
            f"data.{role}_fraction {fraction}: the data has no {role} split; name one by --{role}, "
            "or hold out a share above 0"
        )
    source, first_N = data.selection.labeled["train"], first_occurrences(train.digests)
    try:
        seed = (options.split_seed, SEED_STREAMS[role])
        strata_N = data.targets.strata(train.labels)
        if groups_N is None:
            mask_N = data.targets.hold_out(train.labels, first_N, fraction=fraction, seed=seed)
        else:
            mask_N = hold_out_groups(strata_N, groups_N, fraction=fraction, seed=seed)
    except InputError as error:
        raise InputError(f"{source.place}: no {role} split, and its {error}; name a split by --{role}") from None
    how = f"each {data.targets.stratum} by its share"
    if groups_N is not None:
        # Of tags and of words there are no strata.
        how = f"whole groups, {how} as far as these allow" if strata_N.any() else "whole groups"
    elif mask_N.sum() > round(fraction * len(mask_N)):
        how += ", one row at least"
    notes.add(
        f"{role}: {int(mask_N.sum())} of {len(mask_N)} rows held out from {source.name}, {how} "
        f"(fraction {fraction:g}, split_seed {options.split_seed})"
    )
    if repeated := int((first_N != np.arange(len(first_N))).sum()):
        repeats = counted(repeated, "row repeats", "rows repeat")
        stay = plural(repeated, "it stays", "they stay")
        notes.add(f"{role}: {repeats} an earlier one exactly; {stay} in the same split")
    if single := data.targets.single_rows(train.labels, data.labels):
        notes.add(f"classes of a single row, which stays in train: {listed(single)}")
    return mask_N


def _draw_train(targets: Targets, labels: Any, options: SplitOptions, notes: Notes) -> np.ndarray:
    """Return a mask (N,) of the rows that stay in train."""
    rows, seed = np.arange(len(labels)), (options.split_seed, SEED_STREAMS["train"])
    per_class, most = options.rows_per_class, options.max_train_rows
    if per_class is not None:
        if not isinstance(targets, SingleLabel):
            raise InputError(
                f"--rows-per-class {per_class}: expected none with {targets.task}, whose rows have no single class; "
                "use --max-train-rows"
            )
        rows = np.flatnonzero(at_most_per_class(labels, count=per_class, seed=seed))
        if len(rows) < len(labels):
            notes.add(
                f"train: {len(rows)} of {len(labels)} rows drawn, {per_class} of a class at most "
                f"(split_seed {options.split_seed})"
            )
    if most is not None and most < len(rows):
        notes.add(
            f"train: {most} of {len(rows)} rows drawn, each {targets.stratum} by its share (split_seed "
            f"{options.split_seed})"
        )
        rows = rows[targets.subsample(labels[rows], count=most, seed=seed)]
    return np.isin(np.arange(len(labels)), rows)


def _count_duplicates(rows: dict[Role, SplitRows], notes: Notes) -> dict[str, int]:
    trained = set(rows["train"].digests)
    counts = {str(role): sum(d in trained for d in part.digests) for role, part in rows.items() if role != "train"}
    for role, part in rows.items():
        if count := counts.get(role):
            are = plural(count, "is an exact copy", "are exact copies")
            notes.add(f"duplicates: {count} of {len(part)} {role} rows {are} of training rows")
    return counts


@dataclass(frozen=True)
class LabeledData:
    """Labeled rows by split."""

    selection: Selection
    rows: dict[Role, SplitRows]
    targets: Targets
    labels: tuple[str, ...]
    """See `Splits`."""
    label_values: dict[str, str]
    """See `Splits`."""
    unusable: dict[Role, list[UnusableRow]]
    """Rows that were skipped, see `read_labeled`."""

    @property
    def label_columns(self) -> tuple[str, ...]:
        """See `Splits`."""
        label = self.selection.labeled["train"].columns[self.selection.columns["label"]]
        return label.names if label.kind == "columns" else ()


def read_labeled(source: Source, kind: Kind, options: SplitOptions, notes: Notes) -> LabeledData:
    """Read every labeled split. The classes are those of train.

    Rows that cannot be used are refused, or left out and noted if `source.drop_bad_rows`.

    Raises:
        InputError: see `load`; or no row of a split can be used.
    """
    selection = select_splits(source, kind, options, notes)
    columns, train = selection.columns, selection.labeled["train"]
    unusable: dict[Role, list[UnusableRow]] = {}

    def read(role: Role, labels: LabelReader) -> pa.Table:
        skipped, without_gold = (unusable.setdefault(role, []), None) if source.drop_bad_rows else (None, list[int]())
        split = selection.labeled[role]
        options: dict[str, Any] = {"unusable": skipped, "without_gold": without_gold, "words": targets.reads_words}
        sequences = SequenceReader.of(source.sequence)
        table = to_table(list(read_rows(split, columns, labels, sequences=sequences, **options)))
        if role == "train" and kind == "text":
            _note_sequences(table["text"], sequences, notes)
        if without_gold:
            notes.add(f"{role}: {describe_without_gold(without_gold, len(table))}")
        if skipped:
            if not len(table):
                first = skipped[0]
                name = "training" if role == "train" else role
                raise InputError(f"{first.place}: {first.reason}; no {name} row can be used")
            notes.add(f"{role}: {describe_dropped(skipped, len(table))}")
        return table

    targets = infer_task(train, columns, source, notes)
    check_label_kind(targets, columns["label"], train)
    for split in selection.labeled.values():
        require_columns(columns, split.columns, place=split.place, like=train.place)
        check_label_kind(targets, columns["label"], split, train.columns[columns["label"]].names, train.place)
    reader = targets.reader()
    tables: dict[Role, pa.Table] = {"train": read("train", reader)}
    described = LabelColumn(
        columns["label"],
        train.place,
        train.columns[columns["label"]].names,
        source.label_names,
        source.limits.classes,
    )
    settled = targets.settle(reader, tables["train"]["label"], described, notes)
    tables["train"] = with_label(tables["train"], settled.column)
    if source.task is None and targets.task == SingleLabel.task and may_be_ordered(settled.labels):
        notes.add(
            f"the classes are {settled.labels[0]} to {settled.labels[-1]}; if they are ordered, as stars are, use "
            "--task ordinal"
        )
    for role in selection.labeled:
        if role != "train":
            table = read(role, targets.reader(settled.labels, "the training rows", settled.label_values))
            tables[role] = with_label(table, targets.encode(table["label"], settled.labels))
    rows = {role: SplitRows.from_table(table) for role, table in tables.items()}
    return LabeledData(selection, rows, targets, settled.labels, settled.label_values, unusable)


def _note_sequences(texts: pa.ChunkedArray, reader: SequenceReader | None, notes: Notes) -> None:
    """Note the letters of sequences, or that texts look like some."""
    if reader is not None:
        notes.add(describe(texts.to_pylist(), reader.kind, reader.lower))
    elif kind := looks_like(texts.slice(0, TEXTS_LOOKED_AT).to_pylist()):
        notes.add(f"the texts look like sequences; --sequence {kind} reads them as such")
