"""Training rows with what a teacher has of them: its logits, and embeddings or states of tokens where they are asked for.

Legend: N training rows, B rows of a forward pass, T tokens, C classes, D width, K numbers of a token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from hf_finetune.augmentation.online import AugmentedRows
from hf_finetune.data.inputs import EpochRows, Rows

# What every column of the teacher's begins with.
TAUGHT = "teacher_"
COLUMN = f"{TAUGHT}logits"
TOKENS = f"{TAUGHT}tokens"
"""The column of the teacher's states of tokens (B, T, K), see `distillation.token_cache`."""
Answer = Callable[[AugmentedRows], Any]
"""`the epoch's views -> the teacher's logits of all of them (N, C), as TaughtRows takes them`"""
Embed = Callable[[AugmentedRows], Mapping[str, Any]]
"""`the epoch's views -> the teacher's embeddings of all of them (N, D), by column`"""


def no_embeddings(_: AugmentedRows) -> Mapping[str, Any]:
    """Where none are wanted."""
    return {}


def embedding_column(pooling: str) -> str:
    """The column of the teacher's embeddings (B, D), pooled so."""
    return f"{TAUGHT}embedding_{pooling}"


class TaughtRows(EpochRows):
    """Training rows, the same in every epoch, each with what its teacher has of it.

    Args:
        rows: the rows, or views of them.
        teacher_NC: the teacher's logits of the same rows, shape (N, C); or what gives those of rows (B,) when it is indexed by
            their numbers, see `distillation.logit_cache.Logits`.
        inside: its embeddings of them (N, D), and states of their tokens (N, T, K), likewise, by column.
    """

    def __init__(self, rows: Rows | AugmentedRows, teacher_NC: Any, inside: Mapping[str, Any] = {}) -> None:
        self.rows, self.teacher = rows, {COLUMN: teacher_NC, **inside}
        assert all(len(rows) == len(column) for column in self.teacher.values()), "a row without a teacher's answer"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: column[0] for name, column in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        taught = {name: column[np.asarray(indices)] for name, column in self.teacher.items()}
        return {**self.rows.__getitems__(indices), **taught}


class TaughtViews(EpochRows):
    """The epoch's views of training rows, each with what the teacher says of that view, asked as the epoch begins.

    Args:
        views: of the rows.
        answer: asks the teacher.
        embed: asks it for embeddings.
    """

    def __init__(self, views: AugmentedRows, answer: Answer, embed: Embed = no_embeddings) -> None:
        self.views, self.answer, self.embed = views, answer, embed
        self.taught: TaughtRows | None = None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose views come next."""
        super().set_epoch(epoch)
        self.views.set_epoch(epoch)
        self.taught = TaughtRows(self.views, self.answer(self.views), self.embed(self.views))

    def __len__(self) -> int:
        return len(self.views)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        assert self.taught is not None, "an epoch was chosen"
        return self.taught.__getitems__(indices)


def with_teacher(collate: Callable[[dict[str, Any]], dict[str, Any]], batch: dict[str, Any]) -> dict[str, Any]:
    """A batch for training, and the teacher's columns beside it.

    Args:
        collate: makes the tensors, see `data.inputs.with_labels`.
        batch: of `TaughtRows` or `TaughtViews`.
    """
    return {**collate(batch), **{name: torch.from_numpy(x) for name, x in batch.items() if name.startswith(TAUGHT)}}
