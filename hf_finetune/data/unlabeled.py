"""Rows without labels for pretraining: each input once, and none that the run will be judged by."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from datasets import Dataset, concatenate_datasets

from hf_finetune.data.class_folder import Kind
from hf_finetune.data.columns import choose_inputs
from hf_finetune.data.rows import Unusable, read_rows, to_dataset, to_table
from hf_finetune.data.sources import locate, role_of
from hf_finetune.data.splits import row_digests, superfluous
from hf_finetune.errors import InputError
from hf_finetune.utils import hashing

logger = logging.getLogger("hf_finetune")


@dataclass(frozen=True)
class Unlabelled:
    """Rows with `text` (and `text_pair`) or `image`, and `row`, their number."""

    rows: Dataset
    counts: dict[str, int]
    """`train` and `further`: rows used of either; `evaluated`, `repeated` and `unusable`: rows left out, because they are
    validation or test rows, equal an earlier one, or are empty or damaged."""
    fingerprint: str
    """SHA-256 over the rows' contents, in order."""


def gather(
    own: Sequence[Dataset],
    further: Sequence[str],
    *,
    evaluated: Sequence[Dataset],
    kind: Kind,
    columns: dict[str, str],
    encoding: str = "utf-8",
) -> Unlabelled:
    """The run's training rows and further ones, without what repeats or is judged by.

    Args:
        own: training rows; labels are not looked at.
        further: files, folders or Hub ids, see `read`.
        evaluated: validation and test rows.
        columns: of the run's data, by canonical name.

    Raises:
        InputError: a source cannot be read; fewer than two rows are left.
    """
    names = [n for n in ("text", "text_pair", "image") if n in columns]
    unusable: list[Unusable] = []
    parts = {
        "train": [rows.select_columns(names) for rows in own],
        "further": [read(path, kind=kind, columns=columns, encoding=encoding, unusable=unusable) for path in further],
    }
    scored = {digest for rows in evaluated for digest in _digests(rows)}
    every = [rows for datasets in parts.values() for rows in datasets]
    found = [digest for rows in every for digest in _digests(rows)]
    evaluated_N, repeated_N = superfluous(found, scored=scored)
    wanted = np.flatnonzero(~evaluated_N & ~repeated_N)
    if len(wanted) < 2:
        raise InputError(
            f"pretrain.rows: {len(wanted)} rows to pretrain on; expected two at least, name a file of them"
        )
    of_train = int((wanted < sum(map(len, parts["train"]))).sum())
    counts = {
        "train": of_train,
        "further": len(wanted) - of_train,
        "evaluated": int(evaluated_N.sum()),
        "repeated": int(repeated_N.sum()),
        "unusable": len(unusable),
    }
    order = [found[i] for i in wanted]
    table = (
        concatenate_datasets(every)
        .select(wanted)
        .with_format("arrow")[:]
        .append_column("row", pa.array(range(len(order)), pa.int64()))
    )
    mark = hashing.of_json([digest.hex() for digest in order])
    return Unlabelled(to_dataset(table, f"{mark[:24]}-unlabelled"), counts, mark)


def read(
    path: str, *, kind: Kind, columns: dict[str, str], encoding: str = "utf-8", unusable: list[Unusable] | None = None
) -> Dataset:
    """The rows of all splits of DATA but validation and test.

    The columns are those that the run's data have, where they are there, else the obvious ones.

    Args:
        unusable: takes the rows that are empty or damaged.

    Raises:
        InputError: there is no such data, it has no such split, or lacks a column.
    """
    layout = locate(path, kind=kind, labelled=False, encoding=encoding)
    splits = [split for split in layout.splits.values() if role_of(split.name) in (None, "train")]
    if not splits:
        raise InputError(f"pretrain.rows: {path} has validation and test rows alone; name others")
    names: list[str] = [name for name in ("text", "text_pair", "image") if name in columns]
    tables: list[pa.Table] = []
    for split in splits:
        chosen = choose_inputs(split.columns, columns, kind=kind, place=split.place)
        tables += [to_table([part]) for part in read_rows(split, chosen, None, unusable=unusable)]
    table = pa.concat_tables(tables).select(names)
    logger.info("pretrain.rows: %d rows of %s (%s)", len(table), path, ", ".join(split.name for split in splits))
    return to_dataset(table)


def _digests(rows: Dataset) -> list[bytes]:
    return row_digests(rows.with_format("arrow")[:])
