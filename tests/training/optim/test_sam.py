"""SAM and ASAM: the climb by hand, and a trainer's steps by their definition."""

import copy
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.ranks import run_in_two_processes
from helpers.small_runs import CPU, furthest, small_recipe, small_trainer, trainer_with, weights
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from hf_finetune import Launch, Optim, StoppedBySignal
from hf_finetune.pipeline import run as pipeline
from hf_finetune.training import checkpoints
from hf_finetune.training.checkpoints import CheckpointKeeper
from hf_finetune.training.optim.config import SGD
from hf_finetune.training.optim.sam import SAM, Sharpness, climbed
from hf_finetune.training.optim.update_rule import UpdateRule
from hf_finetune.training.trainer import ClassifierTrainer

pytestmark = pytest.mark.usefixtures("gate_here")


def sam(rho: float, *, adaptive: bool = False, **update) -> Callable[..., ClassifierTrainer]:
    return trainer_with(hooks=[SAM(Sharpness(rho, adaptive), CPU)], update=UpdateRule(**update))


def test_climb_on_a_quadratic() -> None:
    """Loss |w|^2 / 2 at (3, 4): gradient (3, 4) of length 5, half a unit up the slope stands (3.3, 4.4)."""
    w, bystander = nn.Parameter(torch.tensor([3.0, 4.0])), nn.Parameter(torch.ones(2))
    (w.square().sum() / 2).backward()
    with climbed([w, bystander], Sharpness(0.5)):
        assert torch.allclose(w, torch.tensor([3.3, 4.4]))
        assert torch.equal(bystander, torch.ones(2))
        w.grad = None
        (w.square().sum() / 2).backward()
    assert torch.equal(w, torch.tensor([3.0, 4.0]))
    assert torch.allclose(w.grad, torch.tensor([3.3, 4.4]))


def test_adaptive_climb() -> None:
    """T = (1.01, 2.01) for the matrix (-1, 2) and 1 for the bias: g = 1 each, |T g| = (1.0201 + 4.0401 + 1)^0.5."""
    w, b = nn.Parameter(torch.tensor([[-1.0, 2.0]])), nn.Parameter(torch.tensor([0.0]))
    (w.sum() + b.sum()).backward()
    length = (1.0201 + 4.0401 + 1.0) ** 0.5
    with climbed([w, b], Sharpness(0.5, adaptive=True)):
        assert torch.allclose(w, torch.tensor([[-1 + 0.5 * 1.0201 / length, 2 + 0.5 * 4.0401 / length]]))
        assert torch.allclose(b, torch.tensor([0.5 / length]))


@pytest.mark.parametrize("factor", [0.0, float("inf"), float("nan")])
def test_no_direction_no_climb(factor: float) -> None:
    """An overflow under a GradScaler: the second gradient overflows again, and the scaler leaves the step out."""
    w = nn.Parameter(torch.tensor([3.0, 4.0]))
    w.grad = torch.ones(2) * factor
    with climbed([w], Sharpness(0.5)):
        assert torch.equal(w, torch.tensor([3.0, 4.0]))


@pytest.mark.parametrize("adaptive", [False, True])
def test_rows_of_a_sparse_gradient_climb_as_those_of_a_dense_one(adaptive: bool) -> None:
    """Word 1 occurs twice: its gradients are summed before anything is measured."""
    torch.manual_seed(0)
    dense = nn.Embedding(5, 3)
    sparse = nn.Embedding(5, 3, sparse=True)
    sparse.load_state_dict(dense.state_dict())
    ids = torch.tensor([1, 3, 1])
    for table in (dense, sparse):
        table(ids).pow(3).sum().backward()
    before = dense.weight.detach().clone()
    settings = Sharpness(0.5, adaptive)
    with climbed(dense.parameters(), settings), climbed(sparse.parameters(), settings):
        assert torch.allclose(sparse.weight, dense.weight)
        assert not torch.equal(sparse.weight[1], before[1]) and torch.equal(sparse.weight[0], before[0])
    assert torch.equal(sparse.weight, before) and torch.equal(dense.weight, before)


@pytest.mark.parametrize("adaptive", [False, True])
def test_one_step_is_the_gradient_after_the_climb(tmp_path: Path, adaptive: bool) -> None:
    """Plain gradient descent, so that the step is the gradient: w - rate * g(w + e(w)), in four micro-batches."""
    trainer = small_trainer(
        tmp_path,
        "bert",
        micro_batch=2,
        accumulation=4,
        learning_rate=0.1,
        max_steps=1,
        saving=False,
        trainer=sam(0.3, adaptive=adaptive, optimizer=SGD(momentum=0.0)),
    )
    model = copy.deepcopy(trainer.model).train()
    batches = list(trainer.get_train_dataloader())[:4]

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        rows = sum(len(b["labels"]) for b in batches)
        for batch in batches:
            logits = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
            (F.cross_entropy(logits, batch["labels"], reduction="sum") / rows).backward()
        return [p.grad for p in model.parameters()]

    start = [p.detach().clone() for p in model.parameters()]
    first = gradients()
    scale = [w.abs() + 0.01 if adaptive and w.ndim > 1 else torch.ones_like(w) for w in start]
    length = torch.cat([(t * g).flatten() for t, g in zip(scale, first, strict=True)]).norm()
    with torch.no_grad():
        for p, t, g in zip(model.parameters(), scale, first, strict=True):
            p += 0.3 * t * t * g / length
    second = gradients()
    trainer.train()
    moved = 0.0
    for w, before, g, plain in zip(trainer.model.parameters(), start, second, first, strict=True):
        assert torch.allclose(w, before - 0.1 * g, atol=1e-6)
        moved = max(moved, float((g - plain).abs().max()))
    assert moved > 1e-3


def test_climb_of_no_length_changes_no_bit(tmp_path: Path) -> None:
    """Dropout, accumulation, clipping and sparse embeddings on: the second pass is the first one over again, and what
    is drawn after it is what would have been drawn."""

    def run(trainer: Callable[..., ClassifierTrainer]) -> ClassifierTrainer:
        made = small_trainer(
            tmp_path,
            "bert",
            micro_batch=4,
            accumulation=2,
            dropout=None,
            max_grad_norm=0.5,
            saving=False,
            trainer=trainer,
        )
        made.train()
        return made

    plain = run(trainer_with(update=UpdateRule(sparse_embeddings=True)))
    still = run(sam(1e-30, sparse_embeddings=True))
    assert furthest(weights(still), weights(plain)) == 0.0
    assert still.work.rows == plain.work.rows
    assert still.utilization.trained == pytest.approx(2 * plain.utilization.trained)
    assert furthest(weights(run(sam(0.05, sparse_embeddings=True))), weights(plain)) > 1e-4


SCRIPT = """
import sys
from pathlib import Path
from safetensors.torch import save_file
from helpers.small_runs import CPU, small_trainer, trainer_with, weights
from hf_finetune.training.optim.config import SGD
from hf_finetune.training.optim.sam import SAM, Sharpness
from hf_finetune.training.optim.update_rule import UpdateRule

folder = Path(sys.argv[1])
once = {"saving": False, "learning_rate": 0.1}
for name, own in (("plain", {"optimizer": SGD(momentum=0.0)}), ("sparse", {"sparse_embeddings": True})):
    made = trainer_with(hooks=[SAM(Sharpness(0.3), CPU)], update=UpdateRule(**own))
    trainer = small_trainer(folder, "bert", micro_batch=2, accumulation=2, trainer=made, **once)
    trainer.train()
    rank = trainer.args.process_index
    save_file({n: w.contiguous() for n, w in weights(trainer).items()}, folder / f"{name}-{rank}")
"""


def test_two_processes_climb_together(tmp_path: Path) -> None:
    """The gradient is averaged over both before the climb: the same weights as in one process, and on both ranks."""
    alone = small_trainer(
        tmp_path,
        "bert",
        learning_rate=0.1,
        saving=False,
        trainer=sam(0.3, optimizer=SGD(momentum=0.0)),
    )
    alone.train()
    run_in_two_processes(SCRIPT, tmp_path, folder=tmp_path)
    for name in ("plain", "sparse"):
        first, second = (load_file(tmp_path / f"{name}-{rank}") for rank in range(2))
        assert furthest(first, second) == 0.0, name
    assert furthest(load_file(tmp_path / "plain-0"), weights(alone)) < 1e-5


class SignalAt4(CheckpointKeeper):
    """A signal arrives in the fourth step."""

    def on_step_end(self, args, state, control, **options):
        if state.global_step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().on_step_end(args, state, control, **options)


def test_run_with_sam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the pipeline: other weights than without, saved and reloaded; killed within an epoch, the same bits."""
    recipe = replace(small_recipe(tmp_path), optim=Optim(sam_rho=0.5, sam_adaptive=True))
    result = pipeline.run(recipe, Launch(output=str(tmp_path / "straight")))
    assert result["parity"]["reload"]["ok"]
    saved = load_file(tmp_path / "straight" / "model" / "model.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "CheckpointKeeper", SignalAt4)
        with pytest.raises(StoppedBySignal, match="after saving step 4"):
            pipeline.run(recipe, Launch(output=str(tmp_path / "stopped")))
    pipeline.run(recipe, Launch(output=str(tmp_path / "stopped"), resume=True))
    plain = replace(recipe, optim=Optim())
    pipeline.run(plain, Launch(output=str(tmp_path / "plain")))
    again, without = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("stopped", "plain"))
    assert furthest(again, saved) == 0.0
    assert furthest(without, saved) > 1e-5
