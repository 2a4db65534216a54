"""Whole runs on mixed rows: what is saved, that they can be resumed, what they go with, and what is refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small_runs import image_rows, small_recipe, stop_after
from helpers.tiny import tiny_image_checkpoint, tiny_text_checkpoint
from safetensors.torch import load_file

from hf_finetune import ImageData, Launch, Model, Optim, Recipe, Supervised, Train
from hf_finetune.augmentation.image.geometry import Flip
from hf_finetune.augmentation.mixing import CutMix, Mixup, ResizeMix
from hf_finetune.augmentation.text.words import SwapWords
from hf_finetune.cli.overrides import parse_run
from hf_finetune.cli.run_job import RunJob
from hf_finetune.errors import InputError, StoppedBySignal
from hf_finetune.pipeline import run
from hf_finetune.pipeline.batch_plan import MicroBatch, micro_batch, step_batches
from hf_finetune.pipeline.plan import plan
from hf_finetune.pipeline.run import prepare
from hf_finetune.training.losses.config import EffectiveNumber, Focal

pytestmark = pytest.mark.usefixtures("gate_here")

MIXUP = Supervised(mix=(Mixup(alpha=1.0),))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return small_recipe(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """The same of 60 images on a tiny ViT."""
    folder = tmp_path_factory.mktemp("pictures")
    for row in image_rows(60):
        file = folder / "train" / ("dark", "bright")[row["label"]] / f"{row['row']}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(row["image"]["bytes"])
    return dataclasses.replace(
        small_recipe(folder),
        data=ImageData(path=str(folder / "train")),
        model=Model(checkpoint=str(tiny_image_checkpoint(folder / "vit"))),
    )


def trained(recipe: Recipe, folder: Path, **fields: Any) -> dict[str, torch.Tensor]:
    """The weights that a run of the recipe with other fields saves, resumed where it was stopped; what it saved is
    gated."""
    result = run.run(dataclasses.replace(recipe, **fields), Launch(str(folder), resume=True))
    assert result is not None and all(check["ok"] for check in result["parity"].values())
    return load_file(next(folder.glob("*/*model.safetensors")))


def losses(folder: Path) -> list[tuple[int, float]]:
    """Of every step."""
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[n] - other[n]).abs().max()) for n in one)


@pytest.mark.parametrize("kind", ["texts", "pictures"])
def test_everything_survives_saving_and_resuming(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside augmentation and every other part of the objective; a run that was stopped twice ends at the same bits."""
    plain: Recipe = request.getfixturevalue(kind)
    changes = (SwapWords(),) if kind == "texts" else (Flip(),)
    mix = (Mixup(alpha=1.0),) if kind == "texts" else (Mixup(alpha=1.0), CutMix(), ResizeMix(p=0.5))
    objective = Supervised(
        label_smoothing=0.1, loss=Focal(1.5), class_weights=EffectiveNumber(0.9), logit_adjustment=0.5, mix=mix
    )
    if kind == "texts":
        objective = dataclasses.replace(objective, r_drop=1.0)
    chosen = dataclasses.replace(
        plain,
        data=dataclasses.replace(plain.data, augment=changes),
        objective=objective,
        train=Train(num_train_epochs=2.0, per_device_train_batch_size=4, learning_rate=1e-3, logging_steps=1),
        batching=dataclasses.replace(plain.batching, rows_per_step=8),
    )
    straight = trained(chosen, tmp_path / "straight")
    unmixed = trained(chosen, tmp_path / "unmixed", objective=dataclasses.replace(objective, mix=()))
    assert furthest(straight, unmixed) > 1e-3
    said = "Mixup(alpha=1.0)" if kind == "texts" else "Mixup(alpha=1.0), CutMix(), ResizeMix(p=0.5)"
    assert f"| objective.mix | `{said}` |" in (tmp_path / "straight" / "README.md").read_text()
    assert "objective.mix" not in (tmp_path / "unmixed" / "README.md").read_text()
    stored = json.loads((tmp_path / "straight" / "recipe.json").read_text())["recipe"]
    assert stored["objective"]["mix"][0] == {"type": "Mixup", "alpha": 1.0, "p": 1.0}

    stop_after(monkeypatch, 3, 10)
    for _ in range(2):
        with pytest.raises(StoppedBySignal):
            run.run(chosen, Launch(str(tmp_path / "stopped"), resume=True))
    assert furthest(straight, trained(chosen, tmp_path / "stopped")) == 0.0
    # The best epoch may be the first; the steps of the second, begun anew in its middle, are the same as well.
    assert losses(tmp_path / "stopped") == losses(tmp_path / "straight")


@pytest.mark.parametrize(
    "fields",
    [
        {"optim": Optim(word_embeddings="frozen")},
        {"optim": Optim(word_embeddings="dense", layer_decay=0.8)},
        {"method": "lora"},
        {"method": "head"},
        {"flags": ("--adapter", "PROMPT_TUNING")},
        {"flags": ("--model.pooling", "mean", "--batching.token-budget", "256")},
    ],
)
def test_what_mixed_texts_go_with(texts: Recipe, tmp_path: Path, fields: dict[str, Any]) -> None:
    """Each trains to other weights than without mixing, and what it keeps as it is stays as it is."""
    recipe = parse_run(RunJob(texts), fields.pop("flags", ()), "hf-finetune run").recipe
    recipe = dataclasses.replace(
        recipe, train=dataclasses.replace(recipe.train, learning_rate=1e-3, head_warm_start=False), **fields
    )
    plain, mixed = (
        trained(recipe, tmp_path / name, objective=objective)
        for name, objective in (("plain", Supervised()), ("mixed", MIXUP))
    )
    assert furthest(plain, mixed) > 1e-4
    if fields.get("optim") == Optim(word_embeddings="frozen"):
        before = load_file(Path(recipe.model.checkpoint) / "model.safetensors")
        name = "embeddings.word_embeddings.weight"
        assert torch.equal(mixed[f"bert.{name}"], before[name])
    if fields.get("method") == "head":
        assert json.loads((tmp_path / "plain" / "result.json").read_text())["cache"]["used"]
        cache = json.loads((tmp_path / "mixed" / "result.json").read_text())["cache"]
        assert not cache["used"] and cache["why"] == "the training rows change from step to step"


@pytest.mark.parametrize("kind", ["texts", "pictures"])
def test_plan(kind: str, request: pytest.FixtureRequest) -> None:
    assert plan(prepare(dataclasses.replace(request.getfixturevalue(kind), objective=MIXUP))).steps == 7


def test_a_row_alone_is_refused(texts: Recipe, tmp_path: Path) -> None:
    one = dataclasses.replace(texts, objective=MIXUP, train=Train(per_device_train_batch_size=1))
    with pytest.raises(InputError, match=r"objective.mix: .* got Mixup\(alpha=1.0\): a forward pass has a single row"):
        run.run(one, Launch(str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_family_that_needs_ids_is_refused(texts: Recipe, tmp_path: Path) -> None:
    """RoBERTa counts a text's positions behind the padding before it, which embeddings do not show."""
    checkpoint = tiny_text_checkpoint(tmp_path / "roberta", "roberta")
    config = checkpoint / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"padding_side": "left"}))
    left = dataclasses.replace(texts, objective=MIXUP, model=Model(checkpoint=str(checkpoint)))
    with pytest.raises(InputError, match=r"objective.mix: .*roberta does not accept word embeddings"):
        run.run(left, Launch(str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_on_a_cpu_images_of_many_tokens_still_have_a_partner(pictures: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """There a step is cut into small forward passes: else of single rows, at Swin's 3,136 tokens an image, unmixed."""
    monkeypatch.setattr("hf_finetune.pipeline.batch_plan.CPU_FORWARD_TOKENS", 16)
    prepared = prepare(dataclasses.replace(pictures, objective=MIXUP))
    # 54 rows in 7 steps, of 7 rows or 8 each: 3 forward passes of 2 rows at least.
    assert micro_batch(prepared) == MicroBatch(3, 3, 8)
    assert min(map(len, step_batches(prepared, None))) == 2
