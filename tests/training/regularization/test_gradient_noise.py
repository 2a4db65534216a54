from pathlib import Path

import pytest
import torch
from helpers.small_runs import furthest, small_trainer, trainer_with, weights
from torch import nn
from transformers import TrainerState

from hf_finetune.training.regularization.gradient_noise import NoisyGradients, noise_scale


def noisy(step: int, *, seed: int = 0, sparse: bool = False, size: int = 20_000) -> nn.Embedding:
    """A table whose first two rows of three have a gradient of 1, with the noise of this step on it."""
    model = nn.Embedding(3, size, sparse=sparse)
    model(torch.tensor([0, 1])).sum().backward()
    NoisyGradients(eta=4.0, gamma=1.0, seed=seed).before_update(model, TrainerState(global_step=step))
    return model


def test_scale_by_hand() -> None:
    """Variance 4 at the first step, a quarter of it at the fourth, whose number is 3."""
    assert noise_scale(0, eta=4.0, gamma=1.0) == 2.0 and noise_scale(3, eta=4.0, gamma=1.0) == 1.0


@pytest.mark.parametrize("step", [0, 3])
def test_noise_has_its_scale(step: int) -> None:
    added = noisy(step).weight.grad - torch.tensor([[1.0], [1.0], [0.0]])
    assert float(added.std()) == pytest.approx(noise_scale(step, eta=4.0, gamma=1.0), rel=0.03)
    assert float(added.mean()) == pytest.approx(0.0, abs=0.05)


def test_noise_follows_from_seed_and_step() -> None:
    assert torch.equal(noisy(1).weight.grad, noisy(1).weight.grad)
    assert not torch.equal(noisy(1).weight.grad, noisy(1, seed=1).weight.grad)
    one, other = noisy(0).weight.grad[2] / 2, noisy(3).weight.grad[2]
    assert not torch.allclose(one, other, atol=0.1)


def test_words_outside_the_step_get_none() -> None:
    gradient = noisy(0, sparse=True).weight.grad.to_dense()
    assert float((gradient[:2] - 1).std()) == pytest.approx(2.0, rel=0.03)
    assert (gradient[2] == 0).all()


def test_global_generator_is_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    model = nn.Linear(2, 2)
    model(torch.ones(1, 2)).sum().backward()
    torch.set_rng_state(before)
    NoisyGradients(eta=1.0, gamma=0.5, seed=0).before_update(model, TrainerState())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
def test_noise_comes_after_the_loss_scale_is_taken_off(max_grad_norm: float, tmp_path: Path) -> None:
    """float16 multiplies the loss before the backward pass; with a factor of 1,024 a run ends as it does without."""

    def trained(folder: Path, scaler: torch.amp.GradScaler | None = None, eta: float = 0.01) -> dict[str, torch.Tensor]:
        noise = trainer_with(hooks=[NoisyGradients(eta=eta, gamma=0.55, seed=0)])
        trainer = small_trainer(folder, "bert", trainer=noise, max_steps=3, max_grad_norm=max_grad_norm)
        if scaler is not None:
            trainer.accelerator.scaler = scaler
            # Accelerate's does so for float16 alone, in which no CPU trains.
            trainer.accelerator.unscale_gradients = lambda: scaler.unscale_(trainer.optimizer.optimizer)
        trainer.train()
        return weights(trainer)

    plain = trained(tmp_path / "plain")
    scaled = trained(tmp_path / "scaled", torch.amp.GradScaler("cpu", init_scale=1024.0))
    assert furthest(plain, scaled) < 1e-6 < furthest(plain, trained(tmp_path / "without", eta=0.0))
