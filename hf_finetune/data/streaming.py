"""Rows to label or to score, a part at a time, in the order of their source."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from datasets import Dataset

from hf_finetune.data.columns import choose_columns
from hf_finetune.data.config import Kind, SourceSplit
from hf_finetune.data.labels import ClassIds
from hf_finetune.data.rows import has_labels, read_rows, to_dataset, to_table
from hf_finetune.data.sources import Split, locate
from hf_finetune.data.split_selection import note_inferred, split_to_read
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import Notes

logger = logging.getLogger("hf_finetune")


def stream(
    source: SourceSplit, kind: Kind, *, labels: Sequence[str] | None = None, batch_rows: int = 1024
) -> Iterator[Dataset]:
    """Canonical rows in the order of the source, a part at a time (a .json file is read whole).

    Args:
        labels: the classifier's class names, to yield `label` as well. None: labels are not even read.
        batch_rows: rows of a part.

    Raises:
        InputError: as `loading.load`, and for a label that the classifier does not know.
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
