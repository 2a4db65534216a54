"""Adan by hand; resuming, overflow and a whole run are in the tests of every optimizer."""

import math

import pytest
import torch
from torch import nn

from hf_finetune.training.optim.config import Adan


def adan_on(w: nn.Parameter) -> torch.optim.Optimizer:
    return Adan().build([{"params": [w], "lr": 0.1, "weight_decay": 0.1}], lr=0.1)


def test_first_step_by_hand() -> None:
    """Nothing has changed yet: the step is the gradient over its size, and the decay divides what comes out."""
    w = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = adan_on(w)
    w.grad = torch.tensor([0.5, -0.25])
    optimizer.step()
    assert w.tolist() == pytest.approx([(1 - 0.1) / 1.01, (-2 + 0.1) / 1.01], rel=1e-5)


def test_later_steps_in_plain_numbers() -> None:
    """The paper's algorithm 1 with beta1 = 0.02, beta2 = 0.08, beta3 = 0.01, its means corrected as in its code."""
    w = nn.Parameter(torch.tensor([1.0]))
    optimizer = adan_on(w)
    theta, m, v, n, before = 1.0, 0.0, 0.0, 0.0, None
    for k, g in enumerate([0.5, -0.2, 0.3, 0.3], start=1):
        change = 0.0 if before is None else g - before
        m = 0.98 * m + 0.02 * g
        v = 0.92 * v + 0.08 * change
        n = 0.99 * n + 0.01 * (g + 0.92 * change) ** 2
        direction = m / (1 - 0.98**k) + 0.92 * v / (1 - 0.92**k)
        theta = (theta - 0.1 * direction / (math.sqrt(n / (1 - 0.99**k)) + 1e-8)) / (1 + 0.1 * 0.1)
        before = g
        w.grad = torch.tensor([g])
        optimizer.step()
        assert w.item() == pytest.approx(theta, rel=1e-5)
