"""Rows without a label, for a teacher to answer: kept apart from those that are scored, put behind the training rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from datasets import Dataset

from hf_finetune.data.labeled import Part
from hf_finetune.data.rows import UNLABELLED
from hf_finetune.data.splits import superfluous


def without_repeats(extra: Part, parts: Mapping[str, Part]) -> tuple[Part, dict[str, int]]:
    """Leave out what is scored, and what is there already.

    Args:
        extra: rows without a label.
        parts: the labelled rows by role; train and validation among them.

    Returns:
        The others, in order; and `rows`, how many these are, `evaluated`, how many have the exact input of a row that is
        scored, `repeated`, how many of the rest have that of a training row or of an earlier one among themselves.
    """
    scored = {digest for role, part in parts.items() if role != "train" for digest in part.digests}
    evaluated_N, repeated_N = superfluous(extra.digests, scored=scored, before=parts["train"].digests)
    left = extra.where(~evaluated_N & ~repeated_N)
    return left, {
        "rows": len(left.digests),
        "evaluated": int(evaluated_N.sum()),
        "repeated": int(repeated_N.sum()),
    }


def joined(train: Part, extra: Part) -> Part:
    """The training rows, and behind them those without a label."""
    return Part(
        pa.concat_tables([train.table, extra.table]),
        [*train.digests, *extra.digests],
        np.concatenate([train.labels_N, extra.labels_N]),
    )


def with_a_label(chosen_n: np.ndarray, rows: Dataset) -> np.ndarray:
    """Places of some training rows, in order, and where none of them has a label that of the first that has one: what is
    tried on them looks at labels."""
    labels_N = np.asarray(rows["label"][:])
    first = np.flatnonzero(labels_N != UNLABELLED)[:1]
    return np.sort(chosen_n if (labels_N[chosen_n] != UNLABELLED).any() else np.append(chosen_n, first))


def labelled(rows: Dataset) -> Dataset:
    """The training rows that have a label, in order: all of them, or those before the ones that have none."""
    labels_N = np.asarray(rows["label"][:])
    return rows if (labels_N != UNLABELLED).all() else rows.select(np.flatnonzero(labels_N != UNLABELLED))
