"""Training rows with what a teacher says of them.

Legend: N training rows, B rows of a forward pass, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from hf_finetune.data.inputs import Rows

COLUMN = "teacher_logits"


class TaughtRows(torch.utils.data.Dataset):
    """Training rows for a torch DataLoader, each with its teacher's logits.

    Args:
        rows: the rows.
        teacher_NC: the teacher's logits of the same rows, shape (N, C).
    """

    def __init__(self, rows: Rows, teacher_NC: np.ndarray) -> None:
        assert len(rows) == len(teacher_NC), "a row without a teacher's answer"
        self.rows, self.teacher_NC = rows, teacher_NC

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.rows[index], COLUMN: self.teacher_NC[index]}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        return {**self.rows.__getitems__(indices), COLUMN: self.teacher_NC[np.asarray(indices)]}


def with_teacher(collate: Callable[[dict[str, Any]], dict[str, Any]], batch: dict[str, Any]) -> dict[str, Any]:
    """A batch for training, and `teacher_logits` (B, C) beside it.

    Args:
        collate: makes the tensors, see `data.inputs.with_labels`.
        batch: of `TaughtRows`.
    """
    return {**collate(batch), COLUMN: torch.from_numpy(batch[COLUMN])}
