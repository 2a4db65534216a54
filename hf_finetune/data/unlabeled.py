"""Examples without a label: for a teacher to label, behind the training rows; and for pretraining."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset, concatenate_datasets

from hf_finetune.data.columns import choose_inputs
from hf_finetune.data.config import Kind, Role, Source
from hf_finetune.data.duplicates import dataset_digests, first_occurrences
from hf_finetune.data.labels import UNLABELED
from hf_finetune.data.rows import SplitRows, UnusableRow, read_rows, to_dataset, to_table
from hf_finetune.data.sources import Split, locate, role_of
from hf_finetune.data.split_selection import Selection
from hf_finetune.errors import InputError
from hf_finetune.utils import hashing
from hf_finetune.utils.messages import Notes, listed

logger = logging.getLogger("hf_finetune")


def _screen(
    digests: Sequence[bytes], *, scored: Collection[bytes], before: Sequence[bytes] = ()
) -> tuple[np.ndarray, dict[str, int]]:
    """Mask (N,), true for the rows to train on; and how many of the others are `evaluated`, or else `repeated`.

    Args:
        digests: of the rows, see `duplicates.row_digests`.
        scored: of validation and test rows.
        before: of rows that are trained on already.
    """
    scored_N = np.fromiter((digest in scored for digest in digests), bool, len(digests))
    first_N = first_occurrences([*before, *digests])[len(before) :]
    repeated_N = ~scored_N & (first_N != len(before) + np.arange(len(digests)))
    return ~scored_N & ~repeated_N, {"evaluated": int(scored_N.sum()), "repeated": int(repeated_N.sum())}


# For a teacher


def read_for_teacher(
    selection: Selection, kind: Kind, labeled: Mapping[Role, SplitRows], names: Sequence[str], notes: Notes
) -> tuple[SplitRows, dict[str, int]]:
    """Training rows that a teacher labels: those of further files, without what is scored or in train already.

    Args:
        labeled: the labeled rows; train and validation among them.
        names: the files, for messages.

    Returns:
        The rows, in order, with the label -1; and `rows`, how many these are, `evaluated`, how many have the exact
        input of a row that is scored, `repeated`, how many of the rest have that of a training row or of an earlier one
        among themselves, `unusable`, how many are empty or damaged.

    Raises:
        InputError: a file lacks a column; no row is left.
    """
    unusable: list[UnusableRow] = []
    parts: list[pa.Table] = []
    for split in selection.unlabeled:
        columns = choose_inputs(split.columns, selection.columns, kind=kind, place=split.place)
        if others := [f"{name} from column {c!r}" for name, c in columns.items() if c != selection.columns[name]]:
            notes.add(f"inferred for {split.name}: {', '.join(others)}")
        parts += read_rows(split, columns, None, unusable=unusable)
    table = to_table(parts)
    labels = pa.array(np.full(len(table), UNLABELED, dtype=np.int64))
    rows = SplitRows.of(table.add_column(table.column_names.index("row"), "label", labels))
    scored = {digest for role, part in labeled.items() if role != "train" for digest in part.digests}
    usable_N, excluded = _screen(rows.digests, scored=scored, before=labeled["train"].digests)
    counts = {"rows": int(usable_N.sum()), **excluded, "unusable": len(unusable)}
    files = listed([Path(name).name for name in names])
    left_out = (
        f"{counts['evaluated']} that are scored, {counts['repeated']} that repeat a training row or one another, "
        "exactly alike"
    )
    if unusable:
        first = unusable[0]
        left_out += f", {len(unusable)} that are empty or damaged (the first: {first.place}, {first.reason})"
    if not counts["rows"]:
        raise InputError(f"--unlabeled {files}: no row is left, without {left_out}; name other rows, or leave it out")
    notes.add(f"unlabelled: {counts['rows']} rows of {files} for the teacher to label; left out: {left_out}")
    return rows.where(usable_N), counts


def with_labeled_row(chosen_n: np.ndarray, rows: Dataset) -> np.ndarray:
    """Places of some training rows, in order; where none of them has a label, with the first row that has one: what is
    tried on them looks at labels."""
    labels_N = np.asarray(rows["label"][:])
    first = np.flatnonzero(labels_N != UNLABELED)[:1]
    return np.sort(chosen_n if (labels_N[chosen_n] != UNLABELED).any() else np.append(chosen_n, first))


def labeled_rows(rows: Dataset) -> Dataset:
    """The training rows that have a label, in order: all of them, or those before the ones that have none."""
    labels_N = np.asarray(rows["label"][:])
    return rows if (labels_N != UNLABELED).all() else rows.select(np.flatnonzero(labels_N != UNLABELED))


# For pretraining


@dataclass(frozen=True)
class PretrainingRows:
    """Rows with `text` (and `text_pair`) or `image`, and `row`, their number: each input once."""

    rows: Dataset
    counts: dict[str, int]
    """`train` and `further`: rows used of either; `evaluated`, `repeated` and `unusable`: rows left out, because they
    are validation or test rows, equal an earlier one, or are empty or damaged."""
    fingerprint: str
    """SHA-256 over the rows' contents, in order."""


def read_for_pretraining(
    own: Sequence[Dataset],
    further: Sequence[str],
    *,
    evaluated: Sequence[Dataset],
    kind: Kind,
    columns: dict[str, str],
    encoding: str | None = None,
) -> PretrainingRows:
    """The run's training rows and further ones, without what repeats or is scored.

    Args:
        own: training rows; labels are not looked at.
        further: files, folders or Hub ids, of which all splits but validation and test are read. Their columns are
            those of the run's data, where they are there, else the obvious ones.
        evaluated: validation and test rows.
        columns: of the run's data, by canonical name.

    Raises:
        InputError: a source cannot be read, has no such split or lacks a column; fewer than two rows are left.
    """
    names = [name for name in ("text", "text_pair", "image") if name in columns]
    unusable: list[UnusableRow] = []
    train = [rows.select_columns(names) for rows in own]
    every = [*train, *(_read_source(Source(path, encoding=encoding), kind, columns, unusable) for path in further)]
    scored = {digest for rows in evaluated for digest in dataset_digests(rows)}
    digests = [digest for rows in every for digest in dataset_digests(rows)]
    usable_N, excluded = _screen(digests, scored=scored)
    chosen = np.flatnonzero(usable_N)
    if len(chosen) < 2:
        raise InputError(
            f"pretrain.rows: {len(chosen)} rows to pretrain on; expected two at least, name a file of them"
        )
    of_train = int((chosen < sum(map(len, train))).sum())
    counts = {"train": of_train, "further": len(chosen) - of_train, **excluded, "unusable": len(unusable)}
    table = concatenate_datasets(every).select(chosen).with_format("arrow")[:]
    table = table.append_column("row", pa.array(range(len(chosen)), pa.int64()))
    fingerprint = hashing.of_json([digests[i].hex() for i in chosen])
    return PretrainingRows(to_dataset(table, f"{fingerprint[:24]}-unlabelled"), counts, fingerprint)


def _read_source(source: Source, kind: Kind, columns: dict[str, str], unusable: list[UnusableRow]) -> Dataset:
    layout = locate(source, kind=kind, labeled=False)
    splits: list[Split] = [split for split in layout.splits.values() if role_of(split.name) in (None, "train")]
    if not splits:
        raise InputError(f"pretrain.rows: {source.path} has validation and test rows alone; name others")
    tables: list[pa.Table] = []
    for split in splits:
        chosen = choose_inputs(split.columns, columns, kind=kind, place=split.place)
        tables += [to_table([part]).drop(["row"]) for part in read_rows(split, chosen, None, unusable=unusable)]
    table = pa.concat_tables(tables)
    logger.info("pretrain.rows: %d rows of %s (%s)", len(table), source.path, ", ".join(s.name for s in splits))
    return to_dataset(table)
