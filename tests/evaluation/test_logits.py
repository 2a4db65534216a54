"""Batches of forward passes: by rows or by tokens, every row once, logits in row order."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from hf_finetune.evaluation.logits import predict_logits


class Echo(nn.Module):
    """Returns the row number as logit, and records its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.batches = nn.Parameter(torch.ones(())), []

    def forward(self, row: torch.Tensor) -> SimpleNamespace:
        self.batches.append(row.tolist())
        return SimpleNamespace(logits=row[:, None].float())


def batches_of(count: int, **options) -> list[list[int]]:
    model = Echo()
    logits = predict_logits(model, range(count), lambda rows: {"row": torch.tensor(rows)}, **options)
    assert logits.tolist() == [[float(i)] for i in range(count)], "logits in row order"
    assert sorted(row for batch in model.batches for row in batch) == list(range(count)), "every row once"
    return model.batches


def test_rows_of_a_batch() -> None:
    assert [len(b) for b in batches_of(70)] == [64, 6]
    assert [len(b) for b in batches_of(70, batch_size=None, tokens=10)] == [64, 6], "without lengths tokens say nothing"
    assert batches_of(5, batch_size=2, lengths=np.array([9, 1, 8, 2, 3])) == [[1, 3], [4, 2], [0]]


def test_tokens_of_a_batch() -> None:
    """Short rows in large batches, long rows in small ones; a row above the limit is a batch by itself."""
    lengths = np.array([40, 2, 3, 3, 30, 2, 10, 11, 2])
    assert batches_of(9, batch_size=None, tokens=12, lengths=lengths) == [[1, 5, 8, 2], [3], [6], [7], [4], [0]]
    assert batches_of(9, batch_size=3, tokens=12, lengths=lengths) == [[1, 5, 8], [2, 3, 6], [7, 4, 0]]


@pytest.mark.parametrize("tokens", [1, 50, 500, 10_000])
def test_no_batch_is_larger_than_its_limit(tokens: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 200)
    batches = batches_of(200, batch_size=None, tokens=tokens, lengths=lengths)
    assert all(len(b) == 1 or len(b) * lengths[b].max() <= tokens for b in batches)
    for one, following in pairwise(batches):
        assert (len(one) + 1) * lengths[following[0]] > tokens, "another row would have had room"
