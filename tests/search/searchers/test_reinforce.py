"""The controller learns: by its gradient, by its baseline, and by what it comes to draw."""

import pytest
import torch

from hf_finetune.augmentation.text.words import SwapWords
from hf_finetune.search.augmentation.space import Space
from hf_finetune.search.searchers.reinforce import Controller, MovingScale, Reinforce, reinforce_loss

SPACE = Space({name: SwapWords for name in "ABCDEFGH"})


def share_of(controller: Controller, operation: int, draws: int = 200) -> float:
    """How often the operation is drawn, of all moves of so many policies."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        drawn = [decision for _ in range(draws) for decision in controller(generator)[0][::3]]
    return drawn.count(operation) / len(drawn)


def test_the_operation_that_is_rewarded_is_drawn_more_often() -> None:
    searcher = Reinforce(SPACE, trials=120, seed=0)
    assert share_of(searcher.controller, 3) == pytest.approx(1 / 8, abs=0.04)
    for _ in range(100):
        trial = searcher.ask()
        moves = [move for branch in trial.candidate.branches for move in branch]
        searcher.tell(trial, sum(move.operation == "D" for move in moves) / len(moves))
    assert share_of(searcher.controller, 3) > 0.5


def test_without_a_reward_it_keeps_drawing_all() -> None:
    searcher = Reinforce(SPACE, trials=120, seed=0)
    for _ in range(60):
        searcher.tell(searcher.ask(), 1.0)
    assert share_of(searcher.controller, 3) == pytest.approx(1 / 8, abs=0.06)


def test_the_gradient_by_hand() -> None:
    logits = torch.zeros(4, requires_grad=True)
    logs = logits.log_softmax(-1)
    reinforce_loss(logs[1], torch.zeros(()), advantage=2.0, bonus=0.0).backward()
    # Minus the advantage times (what was drawn - its probability).
    assert torch.allclose(logits.grad, torch.tensor([0.5, -1.5, 0.5, 0.5]))
    assert float(reinforce_loss(torch.tensor(-1.0), torch.tensor(3.0), advantage=2.0, bonus=0.5)) == pytest.approx(0.5)


def test_the_moving_baseline_by_hand() -> None:
    scale = MovingScale()
    assert scale.advantage(1.0) == 0.0
    # Mean 1, no spread yet: cut off at 3.
    assert scale.advantage(2.0) == 3.0
    # Weights .16 and .2 of .36: mean 14/9, mean square 8/3, deviation sqrt(20)/9.
    assert scale.advantage(1.0) == pytest.approx((1 - 14 / 9) / (20**0.5 / 9))
    # What is not above the baseline is not rewarded.
    assert scale.advantage(0.0) < 0
