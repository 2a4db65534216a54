"""Stream canonical rows to predict or evaluate."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from datasets import Dataset

from hf_finetune.data.columns import WORDS, choose_columns
from hf_finetune.data.config import Kind, SourceSplit, TaskName
from hf_finetune.data.layout import Split, skipped_files
from hf_finetune.data.rows import (
    Carried,
    UnusableRow,
    describe_dropped,
    describe_without_gold,
    has_labels,
    read_rows,
    to_dataset,
    to_table,
    with_label,
)
from hf_finetune.data.sources import locate
from hf_finetune.data.split_selection import note_inferred, split_to_read
from hf_finetune.data.targets.base import Targets
from hf_finetune.data.targets.choose import check_label_kind, targets_of
from hf_finetune.data.targets.multi_label import MultiLabel
from hf_finetune.errors import InputError, NoLabels
from hf_finetune.utils.messages import Notes
from hf_finetune.utils.sequences import SequenceReader

logger = logging.getLogger("hf_finetune")


def stream(
    source: SourceSplit,
    kind: Kind,
    *,
    labels: Sequence[str] | None = None,
    label_values: Mapping[str, str] | None = None,
    task: TaskName = "single-label",
    batch_rows: int = 1024,
    dropped: list[UnusableRow] | None = None,
    carried: Carried | None = None,
    trained: Mapping[str, str | tuple[str, ...]] | None = None,
) -> Iterator[Dataset]:
    """Yield canonical rows in the order of the source, `batch_rows` at a time (a .json file is read whole).

    Args:
        trained: the columns that the classifier was trained on, by canonical name; they are read where the source has
            them and names no others.
        labels: the classifier's class names, to yield `label` as well. None: labels are not read.
        label_values: the names of labels that the source numbers; those of `source.label_names` take precedence.
        task: how the labels are read.
        dropped: collects the rows that `source.drop_bad_rows` leaves out. They are counted in a warning.
        carried: collects the other columns of the rows.

    Raises:
        InputError: see `loading.load`; or a label is not a class of the classifier.
    """
    source, known = _as_trained(source, trained or {}, need_label=labels is not None)
    targets = targets_of(task, source.label_separator)
    split, columns = _split_and_columns(source, kind, known, targets, need_label=labels is not None)
    values = {str(number): name for number, name in enumerate(source.label_names)} or label_values
    reader = None if labels is None else targets.reader(labels, "the classifier", values)
    if labels is not None:
        tags = labels if targets.task == MultiLabel.task else ()
        check_label_kind(targets, columns["label"], split, tags, "the classifier")
    without_gold: list[int] | None = None if labels is None else []
    unusable = (list[UnusableRow]() if dropped is None else dropped) if source.drop_bad_rows else None
    rows = 0
    if carried is not None:
        carried.choose(split, columns)
    options: dict[str, Any] = {"words": targets.reads_words, "sequences": SequenceReader.of(source.sequence)}
    options |= {"unusable": unusable, "without_gold": without_gold, "carried": carried}
    for part in read_rows(split, columns, reader, size=batch_rows, **options):
        rows += len(part["row"])
        if len(part["row"]):
            table = to_table([part])
            yield to_dataset(table if labels is None else with_label(table, targets.encode(table["label"], labels)))
    if unusable:
        if not rows:
            raise InputError(f"{unusable[0].place}: {unusable[0].reason}; no row can be used")
        logger.warning("%s: %s", split.place, describe_dropped(unusable, rows))
    if without_gold:
        logger.warning("%s: %s", split.place, describe_without_gold(without_gold, rows))


def _split_and_columns(
    source: SourceSplit, kind: Kind, known: Mapping[str, str], targets: Targets, *, need_label: bool
) -> tuple[Split, dict[str, str]]:
    """Return the split to read and its columns by canonical name.

    Args:
        known: the columns that the classifier was trained on.
    """
    layout, requested = locate(source, kind=kind, labeled=need_label), source.columns(kind)

    def choose(split: Split, *, need_label: bool = need_label) -> dict[str, str]:
        like = {name: column for name, column in known.items() if column in split.columns}
        names = {name: like.get(name) if column is None else column for name, column in requested.items()}
        if targets.reads_words and names["text"] is None:
            names["text"] = next((name for name in split.columns if name.lower() in WORDS[0]), None)
        return choose_columns(
            split.columns, names, kind=kind, need_label=need_label, place=split.place, cells=split.first_cells
        )

    def usable(split: Split) -> bool:
        return not need_label or has_labels(split, choose(split, need_label=False).get("label"))

    split = split_to_read(layout, source.path, source.split, usable)
    if len(layout.splits) > 1:
        logger.info("%s: reading the split %s", source.path, split.name)
    for note in split.notes:
        logger.info(note)
    if split.skipped:
        logger.warning(skipped_files([split]))
    columns = choose(split)
    if not need_label:
        columns.pop("label", None)
    note_inferred(columns, requested, {}, Notes())
    if need_label and not has_labels(split, columns["label"]):
        raise NoLabels(
            f"{split.place}: every label in column {columns['label']!r} is empty or -1; only predict can use these rows"
        )
    return split, columns


def _as_trained(
    source: SourceSplit, trained: Mapping[str, str | tuple[str, ...]], *, need_label: bool
) -> tuple[SourceSplit, dict[str, str]]:
    """Return a source with the several label columns of a run, unless it names its own, and the run's other columns."""
    label = trained.get("label")
    if need_label and source.label is None and isinstance(label, tuple):
        source = replace(source, label=label)
    return source, {name: column for name, column in trained.items() if isinstance(column, str)}
