"""AdamW over the words that occur: AdamW's numbers for their rows, the others untouched."""

import pytest
import torch
from torch import nn

from hf_finetune.training.gradients import clip_gradients
from hf_finetune.training.optim.vocabulary_adamw import VocabularyAdamW

SETTINGS = {"lr": 0.1, "weight_decay": 0.03, "fused": True}
# Row 4 occurs nowhere; most rows are missing from most steps.
BATCHES = [[0, 1, 1], [5], [2, 3, 0], [1], [5, 3], [0, 0, 2]]
OCCUR = [0, 1, 2, 3, 5]


def network(sparse: bool) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(6, 4, sparse=sparse), nn.Linear(4, 2))


def ours(model: nn.Sequential) -> VocabularyAdamW:
    return VocabularyAdamW(model.parameters(), table=model[0].weight, rows=torch.tensor(OCCUR), **SETTINGS)


def steps(model: nn.Sequential, optimizer: torch.optim.Optimizer, batches: list[list[int]]) -> None:
    for ids in batches:
        optimizer.zero_grad()
        model(torch.tensor(ids)).square().sum().backward()
        optimizer.step()


def test_rows_that_occur_move_as_under_adamw() -> None:
    dense, sparse = network(False), network(True)
    start = dense[0].weight.detach().clone()
    steps(dense, torch.optim.AdamW(dense.parameters(), **SETTINGS), BATCHES)
    steps(sparse, ours(sparse), BATCHES)
    assert torch.allclose(sparse[0].weight[OCCUR], dense[0].weight[OCCUR], atol=1e-5)
    assert torch.allclose(sparse[1].weight, dense[1].weight, atol=1e-5)
    assert not torch.allclose(dense[0].weight[OCCUR], start[OCCUR], atol=0.05)
    assert torch.equal(sparse[0].weight[4], start[4])
    assert torch.allclose(dense[0].weight[4], start[4] * (1 - 0.1 * 0.03) ** len(BATCHES))


def test_moments_of_the_rows_alone_are_kept() -> None:
    model = network(True)
    optimizer = ours(model)
    steps(model, optimizer, BATCHES)
    state = optimizer.state[model[0].weight]
    assert state["exp_avg"].shape == state["exp_avg_sq"].shape == (5, 4) and state["step"] == len(BATCHES)


def test_goes_on_from_a_saved_state_to_the_bit() -> None:
    straight, broken = network(True), network(True)
    steps(straight, ours(straight), BATCHES)
    first = ours(broken)
    steps(broken, first, BATCHES[:3])
    second = ours(broken)
    second.load_state_dict(first.state_dict())
    steps(broken, second, BATCHES[3:])
    for expected, result in zip(straight.parameters(), broken.parameters(), strict=True):
        assert torch.equal(result, expected)


@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_clipping_equals_torchs(max_norm: float) -> None:
    dense, sparse = network(False), network(True)
    for model in (dense, sparse):
        model(torch.tensor([1, 1, 2, 5])).square().sum().backward()
    expected = nn.utils.clip_grad_norm_(dense.parameters(), max_norm)
    assert clip_gradients(sparse.parameters(), max_norm).item() == pytest.approx(expected.item(), rel=1e-6)
    for one, other in zip(dense.parameters(), sparse.parameters(), strict=True):
        assert torch.allclose(other.grad.to_dense(), one.grad, atol=1e-6)


def test_step_that_overflowed_is_not_taken() -> None:
    model = network(True)
    optimizer = ours(model)
    start = [p.detach().clone() for p in model.parameters()]
    optimizer.found_inf = torch.tensor(1.0)
    steps(model, optimizer, [[0, 1]])
    assert all(torch.equal(p, before) for p, before in zip(model.parameters(), start, strict=True))


def test_row_that_was_not_named_is_refused() -> None:
    model = network(True)
    with pytest.raises(IndexError):
        steps(model, ours(model), [[4]])
