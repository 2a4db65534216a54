"""Training rows with what a teacher says of them.

Legend: N training rows, B rows of a forward pass, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from hf_finetune.data.inputs import Rows
from hf_finetune.data.views import Views

COLUMN = "teacher_logits"
Answer = Callable[[dict[str, Any]], np.ndarray]
"""`views of rows, see Views.changed -> the teacher's logits of these very views (B, C)`"""


class TaughtRows(torch.utils.data.Dataset):
    """Training rows for a torch DataLoader, each with its teacher's logits.

    Args:
        rows: the rows.
        teacher_NC: the teacher's logits of the same rows, shape (N, C); or what gives those of rows (B,) when it is indexed by
            their numbers, see `answers.kept.Logits`.
    """

    def __init__(self, rows: Rows, teacher_NC: Any) -> None:
        assert len(rows) == len(teacher_NC), "a row without a teacher's answer"
        self.rows, self.teacher_NC = rows, teacher_NC

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.rows[index], COLUMN: self.teacher_NC[np.array([index])][0]}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        return {**self.rows.__getitems__(indices), COLUMN: self.teacher_NC[np.asarray(indices)]}


class TaughtViews(torch.utils.data.Dataset):
    """The epoch's views of training rows, each with what the teacher says of that view, asked as it comes up.

    Args:
        views: of the rows.
        answer: asks the teacher.
    """

    def __init__(self, views: Views, answer: Answer) -> None:
        self.views, self.answer = views, answer

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose views come next."""
        self.views.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: column[0] for name, column in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        views = self.views.changed(indices)
        return {**self.views.encoded(views), COLUMN: self.answer(views)}


def with_teacher(collate: Callable[[dict[str, Any]], dict[str, Any]], batch: dict[str, Any]) -> dict[str, Any]:
    """A batch for training, and `teacher_logits` (B, C) beside it.

    Args:
        collate: makes the tensors, see `data.inputs.with_labels`.
        batch: of `TaughtRows` or `TaughtViews`.
    """
    return {**collate(batch), COLUMN: torch.from_numpy(batch[COLUMN])}
