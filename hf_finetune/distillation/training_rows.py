"""Training rows with what a teacher has of them: its logits, and the embeddings or states of tokens that losses need.

Legend: N training rows, B rows of a forward pass, T tokens, C classes, D width, K numbers of a token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch

from hf_finetune.augmentation.online import AugmentedRows
from hf_finetune.data.inputs import Columns, EpochRows

# What every column of the teacher's begins with.
TEACHER = "teacher_"
LOGITS = f"{TEACHER}logits"
TOKENS = f"{TEACHER}tokens"
"""The column of the teacher's states of tokens (B, T, K), see `distillation.cache.hidden_states`."""


class TeacherColumn(Protocol):
    """What a teacher has of N rows, which need not be in memory together."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        """Return what it has of the rows of these numbers (B,)."""


TeacherColumns = Mapping[str, TeacherColumn]
ColumnsOfViews = Callable[[AugmentedRows], TeacherColumns]
"""`the epoch's views -> what the teacher has of all of them, by column`"""


def embedding_column(pooling: str) -> str:
    """Name the column of the teacher's embeddings (B, D), pooled so."""
    return f"{TEACHER}embedding_{pooling}"


class DistillationRows(EpochRows):
    """Training rows, each with what its teacher has of it.

    Args:
        rows: the rows, or views of them.
        columns: of the same rows: the logits (N, C), and perhaps embeddings (N, D) and states of tokens (N, T, K).
    """

    def __init__(self, rows: EpochRows, columns: TeacherColumns) -> None:
        self.rows, self.columns = rows, columns
        assert all(len(rows) == len(column) for column in columns.values()), "a row without the teacher's"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Columns:
        return {name: column[0] for name, column in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> Columns:
        return {
            **self.rows.__getitems__(indices),
            **{name: column[np.asarray(indices)] for name, column in self.columns.items()},
        }


class DistillationViews(EpochRows):
    """The epoch's views of training rows, each with what the teacher has of that view, computed as the epoch begins.

    Args:
        views: of the rows.
        columns_of: computes the teacher's columns.
    """

    def __init__(self, views: AugmentedRows, columns_of: ColumnsOfViews) -> None:
        self.views, self.columns_of = views, columns_of
        self.rows: DistillationRows | None = None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose views come next."""
        super().set_epoch(epoch)
        self.views.set_epoch(epoch)
        self.rows = DistillationRows(self.views, self.columns_of(self.views))

    def __len__(self) -> int:
        return len(self.views)

    def __getitems__(self, indices: Sequence[int]) -> Columns:
        assert self.rows is not None, "an epoch was chosen"
        return self.rows.__getitems__(indices)


def collate_with_teacher(
    collate: Callable[[Columns], dict[str, torch.Tensor]], batch: Columns
) -> dict[str, torch.Tensor]:
    """Collate a batch for training, and the teacher's columns beside it.

    Args:
        collate: makes the tensors, see `data.inputs.with_labels`.
        batch: of `DistillationRows` or `DistillationViews`.
    """
    return {**collate(batch), **{name: torch.from_numpy(x) for name, x in batch.items() if name.startswith(TEACHER)}}
