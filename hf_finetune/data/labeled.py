"""Labelled rows in the splits that the data have: found, read and checked, and not yet divided further."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from datasets import Dataset

from hf_finetune.data.class_folder import Kind
from hf_finetune.data.columns import choose_columns, choose_inputs, listed, require_columns
from hf_finetune.data.files import Column
from hf_finetune.data.roles import named_split, splits_for, train_split
from hf_finetune.data.rows import UNLABELLED, ClassIds, Unusable, has_labels, read_rows, to_dataset, to_table
from hf_finetune.data.sources import Layout, Split, locate
from hf_finetune.data.splits import order_classes, row_digests
from hf_finetune.errors import InputError

logger = logging.getLogger("hf_finetune")


class Notes(list[str]):
    """Notes, each said aloud as it is taken."""

    def take(self, note: str) -> None:
        """Say it, and keep it."""
        logger.info(note)
        self.append(note)


@dataclass(frozen=True)
class Part:
    """Rows of one split with what is known of them."""

    table: pa.Table
    digests: list[bytes]
    labels_N: np.ndarray
    """Class of each row."""

    def where(self, mask_N: np.ndarray) -> Part:
        """The rows of a mask, in order."""
        digests = [d for d, wanted in zip(self.digests, mask_N, strict=True) if wanted]
        return Part(self.table.filter(pa.array(mask_N)), digests, self.labels_N[mask_N])


@dataclass(frozen=True)
class Labelled:
    """What `load.load` divides."""

    sources: dict[str, Split]
    parts: dict[str, Part]
    labels: tuple[str, ...]
    columns: dict[str, str]
    notes: Notes
    unlabelled: Part | None = None
    """Rows of further files, whose labels were not looked at, in the columns of train; None: none were named."""
    left_out: Sequence[Unusable] = ()
    """The rows of these files that are empty or damaged."""


@dataclass(frozen=True)
class Undivided:
    """Labelled rows in the splits that the data have, and what cannot be used of them."""

    splits: dict[str, Dataset]
    """As in `load.Splits`; train, and validation and test where there are any."""
    digests: dict[str, list[bytes]]
    """By split, what two rows share exactly when their input is the same, see `splits.row_digests`."""
    places: dict[str, str]
    """What each was read from."""
    labels: tuple[str, ...]
    unusable: dict[str, list[Unusable]]
    """By split, the rows that `load.load` would refuse; they are in no split."""
    notes: tuple[str, ...]


def read_labelled(
    path: str,
    *,
    kind: Kind,
    config_name: str | None,
    revision: str | None,
    asked: dict[str, str | None],
    validation: str | None,
    test: str | None,
    encoding: str,
    unlabelled: Sequence[str] = (),
    unusable: dict[str, list[Unusable]] | None = None,
) -> Labelled:
    """The labelled splits as the data have them; see `load.load`, and `load_undivided` for `unusable`.

    Raises:
        InputError: see `load.load`.
    """
    notes = Notes()

    def open_path(
        other: str, config_name: str | None = None, revision: str | None = None, *, labelled: bool = True
    ) -> Layout:
        which = {"config_name": config_name, "revision": revision, "encoding": encoding}
        return locate(other, kind=kind, labelled=labelled, **which)

    layout = open_path(path, config_name, revision)
    for note in layout.notes:
        notes.take(note)
    train_source = train_split(layout, path)
    chosen = choose_columns(train_source.columns, asked, kind=kind, need_label=True, place=train_source.place)
    say_inferred(chosen, asked, train_source.columns, notes)
    sources = {"train": train_source}
    for role, name in (("validation", validation), ("test", test)):
        if name is not None:
            sources[role] = named_split(layout, name, f"--{role}", path, open_path)
            require_columns(chosen, sources[role].columns, place=sources[role].place, like=train_source.place)
    _refuse_shared(sources)
    if validation is None:
        sources |= _own_validation(layout, list(sources.values()), path)
    if test is None:
        sources |= _own_test(layout, list(sources.values()), notes)
    open_bare = partial(open_path, labelled=False)
    further = [named_split(layout, name, "--unlabelled", path, open_bare) for name in unlabelled]
    read = [*sources.values(), *further]
    if unused := [name for name, split in layout.splits.items() if not any(split.same_rows(r) for r in read)]:
        notes.take(f"splits not used: {listed(unused)}")
    for role, split in list(sources.items()):
        if not has_labels(split, chosen["label"]):
            if role == "train" or (role == "validation" and validation is not None):
                raise InputError(
                    f"{split.place}: every label in column {chosen['label']!r} is empty or -1; "
                    f"expected labelled rows for {role}"
                )
            del sources[role]
            notes.take(f"{role}: no row of {split.name} has a label (all are -1 or empty), so it is not scored")

    for note in dict.fromkeys(note for split in (*sources.values(), *further) for note in split.notes):
        notes.take(note)
    parts, labels = _read_all(sources, chosen, notes, unusable)
    left_out: list[Unusable] = []
    return Labelled(
        sources, parts, labels, chosen, notes, _read_further(further, chosen, kind, notes, left_out), left_out
    )


def load_undivided(
    path: str,
    *,
    kind: Kind,
    config_name: str | None = None,
    revision: str | None = None,
    text: str | None = None,
    text_pair: str | None = None,
    image: str | None = None,
    label: str | None = None,
    validation: str | None = None,
    test: str | None = None,
    encoding: str = "utf-8",
) -> Undivided:
    """As `load.load`, but nothing is carved or drawn, and rows that cannot be used are set aside instead of refused.

    Raises:
        InputError: as `load.load`; and where no training row can be used.
    """
    unusable: dict[str, list[Unusable]] = {}
    read = read_labelled(
        path,
        kind=kind,
        config_name=config_name,
        revision=revision,
        asked={"text": text, "text_pair": text_pair, "image": image, "label": label},
        validation=validation,
        test=test,
        encoding=encoding,
        unusable=unusable,
    )
    if not read.parts["train"].digests:
        first = unusable["train"][0]
        raise InputError(f"{first.place}: {first.reason}; no training row can be used")
    return Undivided(
        splits={role: to_dataset(part.table) for role, part in read.parts.items()},
        digests={role: part.digests for role, part in read.parts.items()},
        places={role: source.place for role, source in read.sources.items()},
        labels=read.labels,
        unusable=unusable,
        notes=tuple(read.notes),
    )


def say_inferred(
    chosen: dict[str, str], asked: dict[str, str | None], columns: dict[str, Column], notes: Notes
) -> None:
    """Note which columns were taken without being named, and which were left."""
    inferred = [f"{name} from column {column!r}" for name, column in chosen.items() if asked.get(name) is None]
    others = [repr(c) for c in columns if c not in chosen.values()]
    if inferred:
        notes.take("inferred: " + ", ".join(inferred) + (f" (not used: {listed(others)})" if others else ""))


def _refuse_shared(sources: dict[str, Split]) -> None:
    """No row may serve for two of training, choosing and judging."""
    roles = list(sources)
    for i, role in enumerate(roles):
        for other in roles[:i]:
            if sources[role].same_rows(sources[other]):
                raise InputError(
                    f"--{role}: {sources[role].place} is {other} already; name other rows, or leave --{role} out"
                )


def _own_validation(layout: Layout, taken: list[Split], path: str) -> dict[str, Split]:
    found = splits_for(layout, "validation", taken)
    if len(found) > 1:
        raise InputError(
            f"{path}: several splits could be validation; name one by --validation: {listed([s.name for s in found])}"
        )
    return {"validation": found[0]} if found else {}


def _own_test(layout: Layout, taken: list[Split], notes: Notes) -> dict[str, Split]:
    found = splits_for(layout, "test", taken)
    if len(found) > 1:
        notes.take(f"several splits could be test, none is used; name one by --test: {listed([s.name for s in found])}")
    return {"test": found[0]} if len(found) == 1 else {}


def _read_all(
    sources: dict[str, Split],
    chosen: dict[str, str],
    notes: Notes,
    unusable: dict[str, list[Unusable]] | None = None,
) -> tuple[dict[str, Part], tuple[str, ...]]:
    """Every split, its labels numbered alike; the classes are those of train."""

    def table_of(role: str, classes: ClassIds) -> pa.Table:
        aside = None if unusable is None else unusable.setdefault(role, [])
        return to_table(list(read_rows(sources[role], chosen, classes, unusable=aside)))

    train, label = sources["train"], chosen["label"]
    for split in sources.values():
        require_columns(chosen, split.columns, place=split.place, like=train.place)
    classes = ClassIds()
    tables = {"train": table_of("train", classes)}
    if len(classes.ids) == 1:
        raise InputError(
            f"{train.place}: every row has the label {next(iter(classes.ids))!r}; expected two classes at least"
        )
    declared = train.columns[label].names
    labels = order_classes(classes.ids, declared)
    if absent := [name for name in declared if name not in classes.ids]:
        notes.take(f"classes without a training row are left out: {listed(absent)}")
    if len(classes.types) > 1:
        kinds = listed(sorted(t.__name__ for t in classes.types))
        notes.take(f"the labels are of several types ({kinds}) and count as their text: 1 and '1' are one class")
    _check_classes(labels, tables["train"].num_rows, train.place, label)
    order = {name: i for i, name in enumerate(labels)}
    numbers = np.array([order[name] for name in classes.ids])
    tables["train"] = _renumbered(tables["train"], numbers)
    for role in sources:
        if role != "train":
            tables[role] = table_of(role, ClassIds(labels, "the training rows"))
    return {role: Part(table, row_digests(table), table["label"].to_numpy()) for role, table in tables.items()}, labels


def _read_further(
    splits: Sequence[Split], chosen: dict[str, str], kind: Kind, notes: Notes, unusable: list[Unusable]
) -> Part | None:
    """Rows whose labels are not looked at; of other columns than the training rows' that is noted.

    Args:
        unusable: takes the rows that are empty or damaged.
    """
    if not splits:
        return None
    parts: list[pa.Table] = []
    for split in splits:
        columns = choose_inputs(split.columns, chosen, kind=kind, place=split.place)
        if others := [f"{name} from column {c!r}" for name, c in columns.items() if c != chosen[name]]:
            notes.take(f"inferred for {split.name}: {', '.join(others)}")
        parts += read_rows(split, columns, None, unusable=unusable)
    table = to_table(parts)
    labels_N = np.full(len(table), UNLABELLED, dtype=np.int64)
    table = table.add_column(table.column_names.index("row"), "label", pa.array(labels_N))
    return Part(table, row_digests(table), labels_N)


def _renumbered(table: pa.Table, numbers: np.ndarray) -> pa.Table:
    position = table.column_names.index("label")
    return table.set_column(position, "label", pa.array(numbers[table["label"].to_numpy()], pa.int64()))


def _check_classes(labels: tuple[str, ...], rows: int, place: str, column: str) -> None:
    """Warn of labels that may be something else; a file of texts does not tell numbers to be predicted from classes.

    Raises:
        InputError: numbers with fractions, hardly two of them alike.
    """
    many = len(labels) > max(2, rows // 2)
    try:
        fractions = sum(not float(name).is_integer() for name in labels)
    except (ValueError, OverflowError):
        fractions = 0
    if fractions and many:
        raise InputError(
            f"{place}: column {column!r} holds {len(labels)} different numbers with fractions in {rows} rows: regression is not "
            "supported yet, expected classes; sort the numbers into some, or name another column by --label"
        )
    if fractions:
        logger.warning(
            "%s: the labels in column %r are numbers with fractions; each is a class of its own", place, column
        )
    elif many:
        logger.warning("%s: column %r holds %d classes in %d rows; is it the label?", place, column, len(labels), rows)
