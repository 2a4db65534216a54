"""The stage of pretraining by itself: its rows, its arguments, what it needs, and two processes."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from helpers.pretrained import pretrained_images, pretrained_texts, same, stage_of
from helpers.ranks import run_in_two_processes
from helpers.tiny import tiny_image_checkpoint
from safetensors.torch import load_file

from hf_finetune import Batching, Model, Recipe
from hf_finetune.errors import InputError
from hf_finetune.pipeline.pretrain import pretrain
from hf_finetune.pipeline.pretrain_setup import build_trainer
from hf_finetune.pipeline.record import RunRecord
from hf_finetune.pipeline.run import prepare
from hf_finetune.pretraining.config import (
    MAE,
    ImageObjective,
    MaskedLanguage,
    Pretrain,
    PretrainObjective,
    SimCLR,
    SimCSE,
    SimMIM,
)
from hf_finetune.training.callbacks import read_log
from hf_finetune.utils.plain import to_plain

pytestmark = pytest.mark.usefixtures("gate_here")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return pretrained_texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return pretrained_images(tmp_path_factory.mktemp("pictures"))


def test_something_is_left_to_see(pictures: Recipe, tmp_path: Path) -> None:
    """Squares of 32 pixels would cover these images; and where an image is one patch, there are no parts."""
    made = stage_of(dataclasses.replace(pictures, pretrain=Pretrain(SimMIM())))
    assert made.task.objective == SimMIM(block=16)
    read = build_trainer(made, tmp_path, eval_on_start=True).get_train_dataloader().dataset
    assert read.__getitems__([0, 1])["bool_masked_pos"].sum(1).tolist() == [8, 8]
    one = Model(str(tiny_image_checkpoint(tmp_path / "vit", patch_size=32)))
    for objective in (SimMIM(), MAE()):
        with pytest.raises(
            InputError, match=r"needs several patches in an image, got a single one of 32 pixels in 32 x 32"
        ):
            stage_of(dataclasses.replace(pictures, model=one, pretrain=Pretrain(objective)))


@pytest.mark.parametrize(
    ("objective", "inside"),
    [
        (MaskedLanguage(), "bert.encoder.layer.0.intermediate.dense"),
        (SimCSE(), "encoder.layer.0.intermediate.dense"),
        (MAE(), "encoder.layers.0.mlp.fc1"),
    ],
    ids=["MaskedLanguage", "SimCSE", "MAE"],
)
def test_further_arguments(
    texts: Recipe, pictures: Recipe, tmp_path: Path, objective: PretrainObjective, inside: str
) -> None:
    """`train.extra` holds in the stage, too: activations are computed again, to the same loss. But for what is of the
    run."""
    recipe = pictures if isinstance(objective, ImageObjective) else texts
    # The fast dropout, which draws other masks, goes without.
    model = dataclasses.replace(recipe.model, fast_dropout=False)
    recipe = dataclasses.replace(recipe, model=model, pretrain=Pretrain(objective, max_steps=1))
    losses, passes = [], []
    for extra in ({}, {"activation_checkpointing": True, "dataloader_num_workers": 1, "eval_delay": 9.0}):
        made = stage_of(dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, extra=extra)))
        trainer = build_trainer(made, tmp_path, eval_on_start=False, saving=False)
        layer = trainer.model.get_submodule(inside)
        layer.register_forward_pre_hook(lambda module, given: passes.append(torch.is_grad_enabled()))
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
    # Of the steps, not of the held-out rows.
    assert sum(passes) == 3 and losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert trainer.args.dataloader_num_workers == 1 and trainer.args.eval_delay == 0
    wrong = dataclasses.replace(
        recipe, train=dataclasses.replace(recipe.train, extra={"activation_chekpointing": True})
    )
    with pytest.raises(InputError, match="activation_chekpointing"):
        stage_of(wrong)


def test_a_contrastive_objective_needs_several_rows(texts: Recipe, pictures: Recipe) -> None:
    """However it comes that forward passes have one row: they would train nothing."""
    for recipe, objective, batching in (
        (texts, SimCSE(), Batching(rows_per_step=1)),
        (texts, SimCSE(), Batching(token_budget=4)),
        (pictures, SimCLR(), Batching(rows_per_step=1)),
    ):
        alone = dataclasses.replace(recipe, batching=batching, pretrain=Pretrain(objective))
        with pytest.raises(InputError, match=r"pretrain.objective: .* that has one row"):
            stage_of(alone)


OF_TWO = """
import json, os, sys
from pathlib import Path
import torch
from hf_finetune.pipeline import pretrain
from hf_finetune.pipeline.record import RunRecord
from hf_finetune.pipeline.run import prepare
from hf_finetune.utils.plain import merge
from hf_finetune import Model, Recipe, TextData

folder, rank = Path(sys.argv[1]), os.environ["RANK"]
train = pretrain.train_until_stopped


def and_save(trainer, *arguments, **fields):
    train(trainer, *arguments, **fields)
    assert trainer.args.world_size == 2
    torch.save(trainer.model.state_dict(), folder / f"{name}-{rank}.pt")


pretrain.train_until_stopped = and_save
for name in ("MaskedLanguage", "MAE"):
    blank = Recipe(name="", data=TextData(path=""), model=Model(checkpoint=""))
    recipe = merge(blank, json.loads((folder / f"{name}.json").read_text()))
    prepared = prepare(recipe)
    _, pretraining = pretrain.pretrain(prepared, folder / name, RunRecord.from_run(prepared))
    print(json.dumps(pretraining.report["held_out_loss"]))
"""


def test_two_processes(texts: Recipe, pictures: Recipe, tmp_path: Path) -> None:
    """Both end with the same weights, and near those of one process: words are left out by their row, whoever has it.

    The first step's gradient and loss are those of one process but for rounding: means over all words of the step, of
    which the processes have unlike numbers. From then on Adam makes a step of any gradient, however small: rounding
    errors grow to parts of its rate. Of the keys' biases, which a softmax does not see, the gradient is nothing else.
    """
    still = dataclasses.replace(texts.model, dropout=0.0)
    rate = {"learning_rate": 1e-3, "num_train_epochs": 1.0}
    words = dataclasses.replace(texts, model=still, pretrain=dataclasses.replace(texts.pretrain, **rate))
    patches = dataclasses.replace(pictures, pretrain=Pretrain(MAE(decoder_layers=1), **rate))
    alone = {"MaskedLanguage": words, "MAE": patches}
    for name, recipe in alone.items():
        prepared = prepare(recipe)
        pretrain(prepared, tmp_path / "alone" / name, RunRecord.from_run(prepared))
        # The same steps, half of each in either process.
        halved = dataclasses.replace(recipe.train, per_device_train_batch_size=4)
        (tmp_path / f"{name}.json").write_text(json.dumps(to_plain(dataclasses.replace(recipe, train=halved))))
    said = run_in_two_processes(OF_TWO, tmp_path, folder=tmp_path)
    assert said[0] == said[1]
    for name in alone:
        first, second = (torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True) for rank in range(2))
        assert same(first, second)
        one, two = (tmp_path / "alone" / name, tmp_path / name)
        steps = [[line for line in read_log(f / "pretraining/log.jsonl") if "loss" in line] for f in (one, two)]
        assert len(steps[0]) == len(steps[1])
        for value in ("loss", "grad_norm"):
            assert steps[1][0][value] == pytest.approx(steps[0][0][value], rel=1e-4)
        weights = [load_file(f / "pretrained/model.safetensors") for f in (one, two)]
        start = load_file(Path(alone[name].model.checkpoint) / "model.safetensors")
        apart, moved = (
            max(
                float((x - other[n]).abs().max())
                for n, x in weights[0].items()
                if not n.endswith(("key.bias", "k_proj.bias"))
            )
            for other in (weights[1], start)
        )
        assert apart < moved / 10 and moved > 1e-3, name
