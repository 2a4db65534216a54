"""Training rows together with the teacher's logits, embeddings and hidden states of them, as columns.

Legend: N training rows, B rows of a forward pass, T tokens, C classes, D width, K values of a token.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch

from hf_finetune.augmentation.online import AugmentedRows
from hf_finetune.data.inputs import Columns, EpochRows

TEACHER = "teacher_"
"""Prefix of the teacher's columns."""
LOGITS = f"{TEACHER}logits"
TOKENS = f"{TEACHER}tokens"
"""Column of the teacher's hidden states (B, T, K), see `distillation.cache.hidden_states`."""


class TeacherColumn(Protocol):
    """Values of N rows by the teacher, which need not be in memory together."""

    def __len__(self) -> int:
        """Return N."""

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        """Return the values of the rows of these numbers (B,)."""


TeacherColumns = Mapping[str, TeacherColumn]
ColumnsOfViews = Callable[[AugmentedRows], TeacherColumns]
"""Computes the teacher's columns of an epoch's views."""


def embedding_column(pooling: str) -> str:
    """Return the name of the column of the teacher's embeddings (B, D) of a pooling."""
    return f"{TEACHER}embedding_{pooling}"


class DistillationRows(EpochRows):
    """Training rows with the teacher's columns.

    Args:
        rows: the rows, or views of them.
        columns: the teacher's logits (N, C), and perhaps embeddings (N, D) and hidden states (N, T, K); or, of views, a
            function that computes them as an epoch begins.
    """

    def __init__(self, rows: EpochRows, columns: TeacherColumns | ColumnsOfViews) -> None:
        self.rows, self.columns_of = rows, columns if callable(columns) else None
        self.columns: TeacherColumns = {} if callable(columns) else columns
        assert all(len(rows) == len(column) for column in self.columns.values()), "a row without the teacher's values"

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose views are read next, and compute the teacher's columns of them."""
        super().set_epoch(epoch)
        self.rows.set_epoch(epoch)
        if self.columns_of is not None:
            assert isinstance(self.rows, AugmentedRows), "views change with the epoch"
            self.columns = self.columns_of(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Columns:
        return {name: column[0] for name, column in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> Columns:
        teacher = {name: column[np.asarray(indices)] for name, column in self.columns.items()}
        return {**self.rows.__getitems__(indices), **teacher}


def collate_with_teacher(
    collate: Callable[[Columns], dict[str, torch.Tensor]], batch: Columns
) -> dict[str, torch.Tensor]:
    """Collate a batch of rows with the teacher's columns.

    Args:
        collate: makes the tensors of the student's inputs and labels, see `data.inputs.with_labels`.
    """
    return {**collate(batch), **{name: torch.from_numpy(x) for name, x in batch.items() if name.startswith(TEACHER)}}
