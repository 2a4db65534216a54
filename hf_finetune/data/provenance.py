"""Track the rows that a model was trained on: its metrics on those are too good.

A run saves keys of its training and pretraining rows, and of those of the run that it starts from, in `trained_on.npy`.
"""

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
ARTIFACTS = ("model", "encoder", "adapter", "classical", "pretrained")
"""Folders of a run that hold trained weights."""


def row_keys(rows: Dataset) -> np.ndarray:
    """Return the first eight bytes of each canonical row's digest, see `duplicates.row_digests`, shape (N,), uint64.

    Two sets of a million rows share a key by chance with a probability below 1e-7.
    """
    return np.array([int.from_bytes(digest[:8], "little") for digest in dataset_digests(rows)], np.uint64)


def trained_on(checkpoint: str) -> np.ndarray | None:
    """Return the keys of the rows that a checkpoint was trained on, or None if they are unknown.

    Args:
        checkpoint: folder of a run or of its model; for any other checkpoint nothing is known.
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
    """Save the keys of the rows that a run was trained on.

    Args:
        folder: of the run.
        trained: its training rows and pretraining rows.
        start: the checkpoint that it starts from, if any.
    """
    before = None if start is None else trained_on(start)
    content = io.BytesIO()
    np.save(content, np.unique(np.concatenate([*map(row_keys, trained), *([] if before is None else [before])])))
    write_bytes(folder / FILE, content.getvalue())


def teacher_overlaps(names: Sequence[str], splits: Splits) -> list[str]:
    """Return a warning for each teacher that was trained on evaluation rows."""
    return [
        f"the teacher {Path(name).name} was trained on {rows}: its predictions for them are too good, and so are its "
        "metrics and its student's"
        for name in names
        for rows in _overlaps(name, splits)
    ]


def start_overlaps(start: str, splits: Splits) -> list[str]:
    """Return a warning if the checkpoint that a run starts from was trained on evaluation rows."""
    return [
        f"{Path(start).name}, which this run starts from, was trained on {rows}: metrics on them may be too good"
        for rows in _overlaps(start, splits)
    ]


def _overlaps(checkpoint: str, splits: Splits) -> list[str]:
    """Describe how many rows of each evaluation split a checkpoint was trained on."""
    if (trained := trained_on(checkpoint)) is None:
        return []
    overlaps = []
    for split, rows in (("validation", splits.validation), ("test", splits.test)):
        if rows is not None and (count := int(np.isin(row_keys(rows), trained).sum())):
            overlaps.append(f"{count} of the {len(rows)} {split} rows")
    return overlaps
