from pathlib import Path

import pytest
import torch
from helpers.small_runs import furthest, small_trainer, trainer_with, weights
from torch import nn
from transformers import TrainerState

from hf_finetune.training.regularization.mixout import Mixout, mix, pretrained_layers


def layer(pretrained: float, trained: float, p: float, size: int = 300) -> tuple[nn.Linear, Mixout]:
    made = nn.Linear(size, size, bias=False)
    nn.init.constant_(made.weight, pretrained)
    mixout = Mixout([made], p=p, seed=0)
    nn.init.constant_(made.weight, trained)
    return made, mixout


def test_mix_by_hand() -> None:
    """Pretrained 1, trained 2, p 3/4: 1 where the mask is 0, and 1 + (2 - 1) / (1/4) = 5 elsewhere."""
    mixed = mix(torch.full((2,), 2.0), torch.full((2,), 1.0), torch.tensor([0.0, 4.0]))
    assert mixed.tolist() == [1.0, 5.0]


def test_masks() -> None:
    """Weights are 1 or 5, on average 2; another step has others, the same step the same."""
    made, mixout = layer(1.0, 2.0, 0.75)
    with mixout.on_model(made):
        first = mixout.weight(0)
        assert set(first.unique().tolist()) == {1.0, 5.0}
        assert float((first == 1).float().mean()) == pytest.approx(0.75, abs=0.01)
        assert torch.equal(mixout.weight(0), first)
        x = torch.randn(2, 300)
        assert torch.equal(made(x), x @ first.T)
        mixout.before_step(made, TrainerState(global_step=1))
        assert not torch.equal(mixout.weight(0), first)
        made.eval()
        assert torch.equal(made(x), x @ made.weight.T)
    assert torch.equal(made.train()(x), x @ made.weight.T) and "forward" not in vars(made)
    assert list(made.state_dict()) == ["weight"]


def test_limits() -> None:
    """p 0 is the trained weight; with p close to 1 nearly all are pretrained, and nearly none has a gradient."""
    assert torch.equal(layer(1.0, 2.0, 0.0)[1].weight(0), torch.full((300, 300), 2.0))
    made, mixout = layer(1.0, 2.0, 1 - 1e-6)
    mixed = mixout.weight(0)
    mixed.sum().backward()
    assert float((mixed == 1).float().mean()) > 0.9999
    assert torch.equal(made.weight.grad != 0, mixed != 1)


def mixing(p: float):
    return trainer_with(hooks=lambda model: [Mixout(pretrained_layers(model), p=p, seed=0)])


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_limits_of_a_run(tmp_path: Path, family: str) -> None:
    """p 0 trains as without; p towards 1 keeps the encoder's matrices pretrained while the head trains."""
    plain = small_trainer(tmp_path, family)
    start = weights(plain)
    plain.train()
    off = small_trainer(tmp_path, family, trainer=mixing(0.0))
    off.train()
    # To rounding, which Adam enlarges where a gradient is nearly 0; that of a key's bias is, for softmax cancels it.
    unlike = [n for n in start if not n.endswith(("key.bias", "k_proj.bias"))]
    assert furthest(*({n: weights(side)[n] for n in unlike} for side in (off, plain))) < 3e-4
    kept = small_trainer(tmp_path, family, trainer=mixing(1 - 1e-7), learning_rate=1e-2)
    kept.train()
    moved = {n: float(((kept.model.state_dict()[n] - start[n]).abs() > 1e-6).float().mean()) for n in start}
    names = [n for n, m in kept.model.named_modules() if m in pretrained_layers(kept.model)]
    assert len(names) > 10 and all(moved[f"{n}.weight"] < 0.01 for n in names)
    assert moved["classifier.weight"] > 0.9


def test_layers_that_are_new_or_frozen_are_left_out(tmp_path: Path) -> None:
    model = small_trainer(tmp_path, "bert").model
    every = pretrained_layers(model)
    assert model.bert.pooler.dense in every and model.classifier not in every
    assert model.bert.pooler.dense not in pretrained_layers(model, ("bert.pooler", "classifier"))
    model.bert.encoder.layer[0].requires_grad_(False)
    assert len(pretrained_layers(model)) == len(every) - 6
