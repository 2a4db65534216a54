"""Labelled rows from wherever the user has them, divided and checked: `load` for training, `stream` for afterwards."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset

from hf_finetune.data.class_folder import Kind
from hf_finetune.data.columns import IMAGES, choose_columns, listed
from hf_finetune.data.from_hub import hub_columns
from hf_finetune.data.further_rows import joined, without_repeats
from hf_finetune.data.labeled import Notes, Part, read_labelled, say_inferred
from hf_finetune.data.roles import split_to_read
from hf_finetune.data.rows import ClassIds, Unusable, has_labels, read_rows, to_dataset, to_table
from hf_finetune.data.sources import Split, local_path, locate
from hf_finetune.data.splits import at_most_per_class, carve, fingerprint, first_occurrences, subsample
from hf_finetune.errors import InputError

logger = logging.getLogger("hf_finetune")

# Streams of the split seed: carving the test rows must not change which validation rows are carved from the same rest.
TEST, VALIDATION, TRAIN = 0, 1, 2
# What a search of a policy sets aside to score trials, or pretraining holds back: never both, as search takes no pretraining.
SET_ASIDE = 3


@dataclass(frozen=True)
class Splits:
    """Rows to train on, to choose by and to judge by: `text` (and `text_pair`) or `image`, `label`, `row`.

    `label` is an index into `labels`; `row` counts from 0 in the split that the row was read from.
    """

    train: Dataset
    validation: Dataset
    test: Dataset | None
    """None without labelled test rows."""
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
    unlabelled: dict[str, int] | None = None
    """Of the rows without a label, which stand behind the others in train with the label -1: how many they are, and how
    many were left out, see `further_rows.without_repeats`. None: none were named."""
    left_out: Dataset | None = None
    """Rows of train that `rows_per_class` and `max_train_rows` did not draw, where these were asked for and there are any."""


def load(
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
    validation_fraction: float = 0.1,
    test_fraction: float = 0.0,
    split_seed: int = 0,
    max_train_rows: int | None = None,
    unlabelled: Sequence[str] = (),
    rows_per_class: int | None = None,
    keep_left_out: bool = False,
    encoding: str = "utf-8",
) -> Splits:
    """Find, read, check and divide labelled rows.

    Splits come from the data when it has them. Test rows are carved from train only with a `test_fraction`; validation
    rows when there are none, from what is left. A test or validation split without any label does not count.

    Args:
        path: a file, a folder or a Hub id, see `sources.locate`.
        text, text_pair, image, label: columns; None: the obvious one, see `columns.choose_columns`.
        validation, test: name of a split of the data, or a path of its own.
        validation_fraction, test_fraction: share of the distinct inputs that is carved off.
        max_train_rows: at most this many rows stay in train, drawn after the carving.
        unlabelled: names of splits of the data, or paths, of rows whose labels are not looked at; train itself may be one
            of them, for the rows that were not drawn.
        rows_per_class: at most this many of each class, drawn before `max_train_rows`.
        keep_left_out: return the rows that these two leave out as well.

    Raises:
        InputError: for whatever keeps the rows from being used, naming file, row or field, and the remedy.
    """
    read = read_labelled(
        path,
        kind=kind,
        config_name=config_name,
        revision=revision,
        asked={"text": text, "text_pair": text_pair, "image": image, "label": label},
        validation=validation,
        test=test,
        encoding=encoding,
        unlabelled=unlabelled,
    )
    parts, labels, notes, train_source = read.parts, read.labels, read.notes, read.sources["train"]
    for role, fraction, stream in (("test", test_fraction, TEST), ("validation", validation_fraction, VALIDATION)):
        if role not in parts and (fraction > 0 or role == "validation"):
            parts["train"], parts[role] = _carved(
                parts["train"], role, fraction, (split_seed, stream), train_source, labels, notes
            )
    if "test" not in parts:
        notes.take("no labelled test rows: nothing is claimed about test")
    stays_N = _drawn(parts["train"].labels_N, rows_per_class, max_train_rows, split_seed, notes)
    left_out = parts["train"].where(~stays_N) if keep_left_out and not stays_N.all() else None
    if not stays_N.all():
        parts["train"] = parts["train"].where(stays_N)
    duplicates = _count_duplicates(parts, notes)
    counts = None
    if read.unlabelled is not None:
        parts["train"], counts = _with_unlabelled(parts, read.unlabelled, read.left_out, unlabelled, notes)
    contents = {
        role: (parts[role].digests, parts[role].labels_N) for role in ("train", "validation", "test") if role in parts
    }
    mark = fingerprint(labels, contents)
    made = {role: to_dataset(part.table, f"{mark[:24]}-{role}") for role, part in parts.items()}
    return Splits(
        train=made["train"],
        validation=made["validation"],
        test=made.get("test"),
        labels=labels,
        columns=read.columns,
        fingerprint=mark,
        duplicates=duplicates,
        notes=tuple(notes),
        unlabelled=counts,
        left_out=None if left_out is None else to_dataset(left_out.table, f"{mark[:24]}-left-out"),
    )


def _with_unlabelled(
    parts: dict[str, Part], extra: Part, unusable: Sequence[Unusable], names: Sequence[str], notes: Notes
) -> tuple[Part, dict[str, int]]:
    left, counts = without_repeats(extra, parts)
    counts["unusable"] = len(unusable)
    where = listed([Path(name).name for name in names])
    out = (
        f"{counts['evaluated']} that are scored, {counts['repeated']} that repeat a training row or one another, "
        "exactly alike"
    )
    if unusable:
        out += f", {len(unusable)} that are empty or damaged (the first: {unusable[0].place}, {unusable[0].reason})"
    if not counts["rows"]:
        raise InputError(f"--unlabelled {where}: no row is left, without {out}; name other rows, or leave it out")
    notes.take(f"unlabelled: {counts['rows']} rows of {where} for the teacher to answer; left out: {out}")
    return joined(parts["train"], left), counts


def _drawn(
    labels_N: np.ndarray, rows_per_class: int | None, max_train_rows: int | None, split_seed: int, notes: Notes
) -> np.ndarray:
    """Mask (N,), true for the rows that stay in train."""
    rows = np.arange(len(labels_N))
    if rows_per_class is not None:
        rows = np.flatnonzero(at_most_per_class(labels_N, count=rows_per_class, seed=(split_seed, TRAIN)))
        if len(rows) < len(labels_N):
            notes.take(
                f"train: {len(rows)} of {len(labels_N)} rows drawn, {rows_per_class} of a class at most "
                f"(split_seed {split_seed})"
            )
    if max_train_rows is not None and max_train_rows < len(rows):
        notes.take(
            f"train: {max_train_rows} of {len(rows)} rows drawn, each class by its share (split_seed {split_seed})"
        )
        rows = rows[subsample(labels_N[rows], count=max_train_rows, seed=(split_seed, TRAIN))]
    stays_N = np.zeros(len(labels_N), dtype=bool)
    stays_N[rows] = True
    return stays_N


def _carved(
    train: Part,
    role: str,
    fraction: float,
    seed: tuple[int, int],
    source: Split,
    labels: tuple[str, ...],
    notes: Notes,
) -> tuple[Part, Part]:
    if fraction <= 0:
        raise InputError(
            f"data.{role}_fraction {fraction}: the data has no {role} split; name one by --{role}, "
            "or carve a share above 0"
        )
    first_N = first_occurrences(train.digests)
    try:
        mask_N = carve(train.labels_N, first_N, fraction=fraction, seed=seed)
    except InputError as error:
        raise InputError(f"{source.place}: no {role} split, and its {error}; name a split by --{role}") from None
    notes.take(
        f"{role}: {int(mask_N.sum())} of {len(mask_N)} rows carved from {source.name}, each class by its share "
        f"(fraction {fraction:g}, split_seed {seed[0]})"
    )
    if repeated := int((first_N != np.arange(len(first_N))).sum()):
        notes.take(
            f"{role}: {repeated} rows repeat an earlier one exactly; they were kept on the same side of the carve"
        )
    if single := np.flatnonzero(np.bincount(train.labels_N) == 1).tolist():
        notes.take(f"classes of a single row, which stays in train: {listed([labels[c] for c in single])}")
    return train.where(~mask_N), train.where(mask_N)


def _count_duplicates(parts: dict[str, Part], notes: Notes) -> dict[str, int]:
    trained = set(parts["train"].digests)
    counts = {role: sum(d in trained for d in part.digests) for role, part in parts.items() if role != "train"}
    for role, count in counts.items():
        if count:
            notes.take(f"duplicates: {count} of {len(parts[role].digests)} {role} rows are in train too, exactly alike")
    return counts


def stream(
    path: str,
    *,
    kind: Kind,
    labels: tuple[str, ...] | None = None,
    require_label: bool = False,
    config_name: str | None = None,
    revision: str | None = None,
    split: str | None = None,
    text: str | None = None,
    text_pair: str | None = None,
    image: str | None = None,
    label: str | None = None,
    encoding: str = "utf-8",
    batch_rows: int = 1024,
) -> Iterator[Dataset]:
    """Canonical rows in the order of the source, a part at a time (a .json file is read whole).

    Args:
        labels: the classifier's class names, needed with `require_label`.
        require_label: yield `label` as well; without it labels are not even read.
        split: where DATA holds several; default: test if it is labelled or need not be, else validation, else train.
        batch_rows: rows of a part.

    Raises:
        InputError: as `load`, and for a label that the classifier does not know.
    """
    layout = locate(
        path, kind=kind, labelled=require_label, config_name=config_name, revision=revision, encoding=encoding
    )
    asked = {"text": text, "text_pair": text_pair, "image": image, "label": label}

    def choose(source: Split, *, need_label: bool = require_label) -> dict[str, str]:
        return choose_columns(source.columns, asked, kind=kind, need_label=need_label, place=source.place)

    def usable(source: Split) -> bool:
        return not require_label or has_labels(source, choose(source, need_label=False).get("label"))

    source = split_to_read(layout, path, split, usable)
    if len(layout.splits) > 1:
        logger.info("%s: reading the split %s", path, source.name)
    for note in source.notes:
        logger.info(note)
    chosen = choose(source)
    say_inferred(chosen if require_label else {k: v for k, v in chosen.items() if k != "label"}, asked, {}, Notes())
    if not require_label:
        chosen.pop("label", None)
    elif not has_labels(source, chosen["label"]):
        raise InputError(
            f"{source.place}: every label in column {chosen['label']!r} is empty or -1; only predict can use these rows"
        )
    classes = ClassIds(labels, "the classifier") if require_label else None
    for part in read_rows(source, chosen, classes, size=batch_rows):
        yield to_dataset(to_table([part]))


def sniff(path: str, *, config_name: str | None = None, revision: str | None = None) -> Kind:
    """Whether DATA holds texts or pictures, by names of files and types of columns.

    Raises:
        InputError: when there is no such data, or it cannot be read.
    """
    if local_path(path) is None:
        columns = hub_columns(path, config_name, revision)
    else:
        layout = locate(path, kind=None, labelled=False, config_name=config_name, revision=revision)
        columns = next(iter(layout.splits.values())).columns
    if any(column.type == "pictures" for column in columns.values()):
        return "image"
    # Bare bytes are pictures if they are called so, or if nothing else can be what is classified.
    binary = [name for name, column in columns.items() if column.kind == "image"]
    words = [name for name, column in columns.items() if column.kind == "string" and not column.numeric]
    called_so = any(name.lower() in tier for name in binary for tier in IMAGES)
    return "image" if called_so or (binary and len(words) <= 1) else "text"
