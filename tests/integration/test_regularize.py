"""Objective, sampling and regularisers from a recipe to a saved model: what they are defined to do, reloaded,
resumed."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small_runs import stop_after, text_rows
from helpers.tiny import tiny_text_checkpoint
from safetensors.torch import load_file

from hf_finetune import Batching, Evaluate, Launch, Model, Precision, Recipe, Regularize, Supervised, TextData, Train
from hf_finetune.cli.train import TrainJob, parse_train
from hf_finetune.errors import InputError, StoppedBySignal
from hf_finetune.pipeline import run as pipeline
from hf_finetune.pipeline.plan import plan
from hf_finetune.pipeline.run import prepare
from hf_finetune.training.losses.config import Balanced, EffectiveNumber, Focal, PerClass
from hf_finetune.training.regularization.config import ElasticNet, GradientNoise

pytestmark = pytest.mark.usefixtures("gate_here")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """54 training rows, 36 of one class and 18 of the other, in steps of 8, one epoch."""
    folder = tmp_path_factory.mktemp("input")
    with (folder / "train.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["text", "label"])
        kept = [row for i, row in enumerate(text_rows(80)) if i % 4 != 1]
        lines.writerows((row["text"], ("common", "rare")[row["label"]]) for row in kept)
    return Recipe(
        name="uneven",
        data=TextData(path=str(folder / "train.csv"), max_length=32),
        model=Model(checkpoint=str(tiny_text_checkpoint(folder / "bert"))),
        train=Train(num_train_epochs=1.0, per_device_train_batch_size=8, learning_rate=1e-3),
        precision=Precision(mixed_precision="no"),
        evaluate=Evaluate(resamples=100, baselines=False, plots=False),
    )


def everything(recipe: Recipe) -> Recipe:
    """All of them in one run."""
    return dataclasses.replace(
        recipe,
        objective=Supervised(
            label_smoothing=0.1,
            loss=Focal(1.5),
            class_weights=EffectiveNumber(0.9),
            logit_adjustment=0.5,
            r_drop=1.0,
        ),
        regularize=Regularize(
            elastic_net=ElasticNet(l1=20.0, l2=1.0, parameters=("classifier.weight", "*word_embeddings.weight")),
            mixout=0.3,
            gradient_noise=GradientNoise(eta=1e-4),
        ),
        batching=Batching(sampling="square_root"),
        train=dataclasses.replace(recipe.train, num_train_epochs=2.0),
    )


def test_everything_survives_saving_and_resuming(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate reloads the model in a fresh process; a run that was stopped in each epoch ends at the same bits."""
    chosen = everything(recipe)
    result = pipeline.run(chosen, Launch(str(tmp_path / "straight")))
    assert result["parity"]["reload"]["ok"]
    straight = load_file(tmp_path / "straight" / "model" / "model.safetensors")

    rows, data = result["rows"]["train"], result["data"]
    assert data["drawn_share"]["rare"] > data["rows_per_class"]["rare"] / rows
    drawn = {name: round(share * rows) for name, share in data["drawn_share"].items()}
    mean = sum(data["class_weights"][name] * drawn[name] for name in drawn) / rows
    assert mean == pytest.approx(1, abs=1e-4) and data["class_weights"]["rare"] > 1
    zeros = {name: int((straight[name] == 0).sum()) for name in ("classifier.weight", next(iter(_tables(straight))))}
    found = result["elastic_net"]
    assert found["zeros"] == sum(zeros.values()) > 100 and found["parameters"].keys() == zeros.keys()
    card = (tmp_path / "straight" / "README.md").read_text()
    for said in ("weights at exactly 0", "class weight", "share of an epoch", "objective.loss.gamma", "mixout"):
        assert said in card
    stored = json.loads((tmp_path / "straight" / "recipe.json").read_text())["recipe"]
    assert stored["objective"]["loss"] == {"type": "Focal", "gamma": 1.5}

    stop_after(monkeypatch, 3, 10)
    monkeypatch.setattr(pipeline, "finalize", lambda trained: trained.trainer.model.state_dict())
    launch = Launch(str(tmp_path / "stopped"), resume=True)
    for _ in range(2):
        with pytest.raises(StoppedBySignal):
            pipeline.run(chosen, launch)
    resumed = pipeline.run(chosen, launch)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def _tables(weights: dict[str, torch.Tensor]) -> list[str]:
    return [name for name in weights if name.endswith("word_embeddings.weight")]


@pytest.fixture(scope="module")
def trained(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory):
    """Trains variants of the recipe without dropout; gives the weights, and keeps the plain ones."""
    folder = tmp_path_factory.mktemp("runs")
    still = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, dropout=0.0))

    def run(**fields: Any) -> dict[str, torch.Tensor]:
        number = len(list(folder.iterdir()))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipeline, "finalize", lambda trained: trained.trainer.model.state_dict())
            return pipeline.run(dataclasses.replace(still, **fields), Launch(str(folder / str(number))))

    return run, run()


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((one[n].double() - other[n].double()).abs().max()) for n in one)


@pytest.mark.parametrize(
    "same",
    [
        {"objective": Supervised(loss=Focal(0.0))},
        {"objective": Supervised(class_weights=PerClass({"rare": 1.0}))},
        {"objective": Supervised(class_weights=EffectiveNumber(0.0))},
        {"objective": Supervised(class_weights=Balanced()), "batching": Batching(sampling="none"), "undo": True},
    ],
)
def test_limits_are_a_plain_run(trained: Any, same: dict[str, Any]) -> None:
    """Gamma 0, equal weights and beta 0 change nothing; balanced weights do."""
    run, plain = trained
    differs = same.pop("undo", False)
    assert (furthest(run(**same), plain) < 1e-3) != differs


@pytest.mark.parametrize(
    "different",
    [
        {"objective": Supervised(loss=Focal())},
        {"objective": Supervised(logit_adjustment=1.0)},
        {"objective": Supervised(label_smoothing=0.2)},
        {"objective": Supervised(class_weights=EffectiveNumber(0.99))},
        {"objective": Supervised(class_weights=PerClass({"rare": 5.0}))},
        {"batching": Batching(sampling="balanced")},
        {"batching": Batching(sampling="square_root")},
        {"regularize": Regularize(elastic_net=ElasticNet(l2=30.0))},
        {"regularize": Regularize(gradient_noise=GradientNoise(eta=0.1))},
        {"regularize": Regularize(mixout=0.5)},
    ],
)
def test_each_changes_the_trained_weights(trained: Any, different: dict[str, Any]) -> None:
    run, plain = trained
    assert furthest(run(**different), plain) > 1e-3


def test_logit_adjustment_moves_the_fitted_head(trained: Any) -> None:
    """Before any step counts, the biases differ by the logarithms of 36/54 and 18/54."""
    run, _ = trained
    train = Train(max_steps=1, learning_rate=1e-12, per_device_train_batch_size=8, head_least_explained=-100.0)
    plain, adjusted = (
        run(train=train, objective=Supervised(logit_adjustment=tau))["classifier.bias"] for tau in (0, 1)
    )
    assert torch.allclose(plain - adjusted, torch.tensor([36 / 54, 18 / 54]).log(), atol=1e-3)


def test_strong_l1_leaves_zeros_alone(trained: Any) -> None:
    run, plain = trained
    sparse = run(regularize=Regularize(elastic_net=ElasticNet(l1=1e6)))
    assert (sparse["classifier.weight"] == 0).all() and (plain["classifier.weight"] != 0).all()
    assert (sparse["classifier.bias"] != 0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": Supervised(class_weights=PerClass({"rear": 2.0}))}, "expected names of classes .*got 'rear'"),
        ({"objective": Supervised(r_drop=1.0)}, "objective.r_drop: expected 0 here.*model.dropout"),
        (
            {"regularize": Regularize(elastic_net=ElasticNet(l1=1.0, parameters=("nothing*",)))},
            "regularize.elastic_net.parameters: .*got 'nothing\\*'",
        ),
    ],
)
def test_what_is_refused(recipe: Recipe, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    still = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, dropout=0.0))
    with pytest.raises(InputError, match=message):
        pipeline.run(dataclasses.replace(still, **changes), Launch(str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_plan_of_drawn_rows(recipe: Recipe) -> None:
    """Its timed steps train on rows that were drawn already."""
    chosen = dataclasses.replace(everything(recipe), batching=Batching(sampling="balanced"))
    assert plan(prepare(chosen)).steps == 2 * -(-54 // 8)


def test_flags_over_yaml(tmp_path: Path) -> None:
    """Operations by name, their numbers as flags, and what YAML says below them."""
    (tmp_path / "mine.yaml").write_text(
        "objective: {loss: {type: Focal, gamma: 3}, class_weights: {type: PerClass, weights: {rare: 2}}}\n"
        "regularize: {elastic_net: {l1: 1e-3, parameters: ['classifier.*']}}\n"
        "batching: {sampling: square_root}\n"
    )
    flags = "--objective.loss Focal --objective.loss.gamma 1.5 --objective.class-weights EffectiveNumber"
    flags += " --objective.class-weights.beta 0.9 --objective.logit-adjustment 1 --objective.r-drop 2"
    flags += " --regularize.mixout 0.3 --regularize.elastic-net.l1 0.5 --regularize.gradient-noise.eta 0.01"
    flags += " --batching.sampling balanced"
    said = parse_train(TrainJob, ["x.csv", "--text", "a", *flags.split()], "train").recipe
    assert said.objective == Supervised(0.0, Focal(1.5), EffectiveNumber(0.9), logit_adjustment=1.0, r_drop=2.0)
    assert said.regularize == Regularize(ElasticNet(l1=0.5), 0.3, GradientNoise(0.01))
    assert said.batching.sampling == "balanced"
    config = ["x.csv", "--text", "a", "--config", str(tmp_path / "mine.yaml"), "--regularize.elastic-net.l2", "1"]
    said = parse_train(TrainJob, [*config, "--objective.loss.gamma", "1"], "train").recipe
    assert said.objective == Supervised(loss=Focal(1.0), class_weights=PerClass({"rare": 2}))
    assert said.regularize == Regularize(ElasticNet(l1=1e-3, l2=1.0, parameters=("classifier.*",)))
    assert said.batching.sampling == "square_root"


def test_penalty_on_layers_whose_turn_never_came(recipe: Recipe, tmp_path: Path) -> None:
    """The run is saved all the same, and they are as pretrained."""
    changes: dict[str, Any] = {
        "model": dataclasses.replace(recipe.model, unfreeze_every=1.0),
        "regularize": Regularize(elastic_net=ElasticNet(l1=100.0, parameters=("*.layer.0.output.dense.weight",))),
    }
    result = pipeline.run(dataclasses.replace(recipe, **changes), Launch(output=str(tmp_path / "run")))
    assert result is not None and result["elastic_net"]["zeros"] == 0
