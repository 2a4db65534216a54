"""What a model was trained on: on rows that it knows, whatever is measured is too good.

A run leaves keys of its training rows, of those it was pretrained on, and of those of the run that it continues, in
`trained_on.npy`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset

from hf_finetune.data.duplicates import dataset_digests
from hf_finetune.data.loading import Splits
from hf_finetune.utils.files import write_bytes

FILE = "trained_on.npy"
ARTIFACTS = ("model", "encoder", "adapter", "pretrained")
"""Folders within a run's that hold what it trained."""


def row_keys(rows: Dataset) -> np.ndarray:
    """The first eight bytes of each canonical row's digest, see `duplicates.row_digests`, shape (N,), uint64.

    That two of a million rows by chance share them with two of another million has odds of one to ten million.
    """
    return np.array([int.from_bytes(digest[:8], "little") for digest in dataset_digests(rows)], np.uint64)


def trained_on(checkpoint: str) -> np.ndarray | None:
    """Keys of the rows that a run and those before it trained on, by its folder or that of its model.

    None: nothing is known, as of what is no run's, or of a damaged file.
    """
    folder = Path(os.path.expanduser(checkpoint)).absolute()
    file = folder / FILE
    if not file.is_file() and (artifact := folder.resolve()).name in ARTIFACTS:
        file = artifact.parent / FILE
    try:
        return np.load(file, allow_pickle=False).astype(np.uint64, casting="safe")
    except (OSError, ValueError, TypeError, EOFError):
        return None


def save_keys(folder: Path, trained: Sequence[Dataset], start: str | None) -> None:
    """Leave the keys in a run's folder.

    Args:
        trained: its training rows, and those of its pretraining, whose labels it did not see.
        start: the checkpoint whose weights it began with; None: it began with none.
    """
    before = None if start is None else trained_on(start)
    content = io.BytesIO()
    np.save(content, np.unique(np.concatenate([*map(row_keys, trained), *([] if before is None else [before])])))
    write_bytes(folder / FILE, content.getvalue())


def teacher_overlaps(names: Sequence[str], splits: Splits) -> list[str]:
    """A line for each teacher, by the name that the user gave it, that was trained on rows which are scored here."""
    return [
        f"the teacher {Path(name).name} was trained on {rows}: its predictions for them are too good, and so is what "
        "they show of it and its student"
        for name in names
        for rows in _overlaps(name, splits)
    ]


def start_overlaps(start: str, splits: Splits) -> list[str]:
    """The same of the checkpoint that a run starts from."""
    return [
        f"{Path(start).name}, which this run starts from, was trained on {rows}: what is measured on them may be "
        "too good"
        for rows in _overlaps(start, splits)
    ]


def _overlaps(checkpoint: str, splits: Splits) -> list[str]:
    """How many of the rows that are scored here a model was trained on, by split; a split without any is left out."""
    if (trained := trained_on(checkpoint)) is None:
        return []
    overlaps = []
    for split, rows in (("validation", splits.validation), ("test", splits.test)):
        if rows is not None and (count := int(np.isin(row_keys(rows), trained).sum())):
            overlaps.append(f"{count} of the {len(rows)} {split} rows")
    return overlaps
