"""Unlabeled examples: for a teacher to label, appended to the training rows; and for pretraining."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset, concatenate_datasets

from hf_finetune.data.cells import Columns
from hf_finetune.data.columns import choose_inputs
from hf_finetune.data.config import Kind, Role, Source
from hf_finetune.data.duplicates import dataset_digests, first_occurrences
from hf_finetune.data.labels import UNLABELED, has_words, is_labeled, labels_of
from hf_finetune.data.layout import Split, role_of
from hf_finetune.data.ragged import Ragged
from hf_finetune.data.rows import SplitRows, UnusableRow, read_rows, to_dataset, to_table
from hf_finetune.data.sources import locate
from hf_finetune.data.split_selection import Selection
from hf_finetune.errors import InputError
from hf_finetune.utils import hashing
from hf_finetune.utils.messages import Notes, counted, listed
from hf_finetune.utils.sequences import SequenceReader

logger = logging.getLogger("hf_finetune")


def _new_rows(
    digests: Sequence[bytes], *, evaluated: Collection[bytes], trained: Sequence[bytes] = ()
) -> tuple[np.ndarray, dict[str, int]]:
    """Return a mask (N,) of the rows that are new, and counts of the other rows: `evaluated` and `repeated`.

    Args:
        digests: of the rows, see `duplicates.row_digests`.
        evaluated: digests of validation and test rows.
        trained: digests of rows that are trained on already.
    """
    evaluated_N = np.fromiter((digest in evaluated for digest in digests), bool, len(digests))
    first_N = first_occurrences([*trained, *digests])[len(trained) :]
    repeated_N = ~evaluated_N & (first_N != len(trained) + np.arange(len(digests)))
    return ~evaluated_N & ~repeated_N, {"evaluated": int(evaluated_N.sum()), "repeated": int(repeated_N.sum())}


# For a teacher


def read_for_teacher(
    selection: Selection,
    kind: Kind,
    labeled: Mapping[Role, SplitRows],
    names: Sequence[str],
    notes: Notes,
    sequences: SequenceReader | None = None,
) -> tuple[SplitRows, dict[str, int]]:
    """Read rows for a teacher to label, dropping those that equal a labeled row or one another.

    Args:
        labeled: the labeled rows by split.
        names: the files, for messages.
        sequences: see `rows.read_rows`.

    Returns:
        The rows, in order, with the label -1, and counts: `rows` are used; of the dropped ones, `evaluated` equal a
        validation or test row, `repeated` a training row or an earlier one, `unusable` are empty or damaged.

    Raises:
        InputError: a file lacks a column; or no row is left.
    """
    unusable: list[UnusableRow] = []
    parts: list[Columns] = []
    words = has_words(labeled["train"].table.column_names)
    for split in selection.unlabeled:
        columns = choose_inputs(split.columns, selection.columns, kind=kind, place=split.place, cells=split.first_cells)
        if others := [f"{name} from column {c!r}" for name, c in columns.items() if c != selection.columns[name]]:
            notes.add(f"inferred for {split.name}: {', '.join(others)}")
        parts += read_rows(split, columns, None, unusable=unusable, words=words, sequences=sequences)
    table = to_table(parts)
    labels = _unlabeled(labeled["train"].table["label"].type, table)
    rows = SplitRows.from_table(table.add_column(table.column_names.index("row"), "label", labels))
    evaluated = {digest for role, part in labeled.items() if role != "train" for digest in part.digests}
    new_N, dropped = _new_rows(rows.digests, evaluated=evaluated, trained=labeled["train"].digests)
    counts = {"rows": int(new_N.sum()), **dropped, "unusable": len(unusable)}
    files, summary = listed([Path(name).name for name in names]), _summary_of_dropped(counts, unusable)
    if not counts["rows"]:
        raise InputError(f"--unlabeled {files}: no row is left after dropping {summary}; name other rows")
    notes.add(f"unlabeled: {counted(counts['rows'], 'row')} of {files} for the teacher to label; dropped: {summary}")
    return rows.where(new_N), counts


def _unlabeled(kind: pa.DataType, table: pa.Table) -> pa.Array:
    """Return labels of a type that mean none, see `labels.is_labeled`."""
    rows = len(table)
    if has_words(table.column_names):
        words_N = Ragged.of_column(table["bounds"]).lengths // 2
        return Ragged.of(np.full(words_N.sum(), UNLABELED), words_N).to_arrow()
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(np.full(rows, UNLABELED), kind)
    missing = np.nan if pa.types.is_floating(kind.value_type) else UNLABELED
    values = pa.array(np.full(rows * kind.list_size, missing), kind.value_type)
    return pa.FixedSizeListArray.from_arrays(values, kind.list_size)


def _summary_of_dropped(counts: Mapping[str, int], unusable: Sequence[UnusableRow]) -> str:
    summary = (
        f"{counts['evaluated']} that equal a validation or test row, {counts['repeated']} that equal a training row or "
        "one another"
    )
    if unusable:
        first = unusable[0]
        summary += f", {len(unusable)} that are empty or damaged (the first: {first.place}, {first.reason})"
    return summary


def with_labeled_row(chosen_n: np.ndarray, rows: Dataset) -> np.ndarray:
    """Sort the indices of chosen rows, and add the first labeled row if none of them has a label."""
    labeled_N = is_labeled(labels_of(rows))
    first = np.flatnonzero(labeled_N)[:1]
    return np.sort(chosen_n if labeled_N[chosen_n].any() else np.append(chosen_n, first))


def labeled_rows(rows: Dataset) -> Dataset:
    """Return the training rows that have a label."""
    labeled_N = is_labeled(labels_of(rows))
    return rows if labeled_N.all() else rows.select(np.flatnonzero(labeled_N))


# For pretraining


@dataclass(frozen=True)
class PretrainingRows:
    """Distinct rows with `text` (and `text_pair`) or `image`, and `row`, numbered from 0."""

    rows: Dataset
    counts: dict[str, int]
    """`train` and `further` rows are used; of the dropped ones, `evaluated` equal a validation or test row, `repeated`
    an earlier row, `unusable` are empty or damaged."""
    fingerprint: str
    """SHA-256 of the rows' contents, in order."""


def read_for_pretraining(
    train: Sequence[Dataset],
    further: Sequence[Source],
    *,
    evaluated: Sequence[Dataset],
    kind: Kind,
    columns: dict[str, str],
) -> PretrainingRows:
    """Collect training rows and further rows, without repetitions and without validation and test rows.

    Args:
        train: training rows, whose labels are ignored.
        further: files, folders or Hub ids, of which all splits but validation and test are read. Their columns are
            those of the run's data if they have them, else the obvious ones.
        evaluated: validation and test rows.
        columns: the columns of the run's data, by canonical name.

    Raises:
        InputError: a source cannot be read, has no such split or lacks a column; or fewer than two rows are left.
    """
    names = [name for name in ("text", "text_pair", "image") if name in columns]
    unusable: list[UnusableRow] = []
    parts = [rows.select_columns(names) for rows in train]
    parts += [_read_source(source, kind, columns, unusable) for source in further]
    digests = [digest for rows in parts for digest in dataset_digests(rows)]
    new_N, dropped = _new_rows(digests, evaluated={d for rows in evaluated for d in dataset_digests(rows)})
    chosen = np.flatnonzero(new_N)
    if len(chosen) < 2:
        raise InputError(
            f"pretrain.rows: {counted(len(chosen), 'row')} to pretrain on; expected at least two, name a file with more"
        )
    from_train = int((chosen < sum(map(len, train))).sum())
    counts = {"train": from_train, "further": len(chosen) - from_train, **dropped, "unusable": len(unusable)}
    table = concatenate_datasets(parts).select(chosen).with_format("arrow")[:]
    table = table.append_column("row", pa.array(range(len(chosen)), pa.int64()))
    fingerprint = hashing.of_json([digests[i].hex() for i in chosen])
    return PretrainingRows(to_dataset(table, f"{fingerprint[:24]}-unlabelled"), counts, fingerprint)


def _read_source(source: Source, kind: Kind, columns: dict[str, str], unusable: list[UnusableRow]) -> Dataset:
    layout = locate(source, kind=kind, labeled=False)
    splits: list[Split] = [split for split in layout.splits.values() if role_of(split.name) in (None, "train")]
    if not splits:
        raise InputError(f"pretrain.rows: {source.path} has only validation and test rows; name other rows")
    tables: list[pa.Table] = []
    for split in splits:
        chosen = choose_inputs(split.columns, columns, kind=kind, place=split.place, cells=split.first_cells)
        sequences = SequenceReader.of(source.sequence)
        parts = read_rows(split, chosen, None, unusable=unusable, sequences=sequences)
        tables += [to_table([part]).drop(["row"]) for part in parts]
    table = pa.concat_tables(tables)
    logger.info(
        "pretrain.rows: %s of %s (%s)", counted(len(table), "row"), source.path, ", ".join(s.name for s in splits)
    )
    return to_dataset(table)
