"""Whole runs of a student: what is saved and said, that they can be resumed, and what they go with."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers.checkpoints import load_classifier
from helpers.distilled import distilled_recipe, dry_run_weights, furthest, result_of, trained
from helpers.small_runs import image_folder, small_recipe, stop_after
from helpers.tiny import tiny_image_checkpoint, tiny_text_checkpoint
from PIL import Image
from transformers import ViTImageProcessor

from hf_finetune import Distill, ImageData, Launch, Model, Recipe, Supervised
from hf_finetune.augmentation.image.geometry import Flip
from hf_finetune.augmentation.text.words import SwapWords
from hf_finetune.cli import main
from hf_finetune.distillation.config import SoftTargets
from hf_finetune.distillation.teachers import network as network_teacher
from hf_finetune.errors import InputError, StoppedBySignal
from hf_finetune.models.surgery.hidden_width import NarrowHidden
from hf_finetune.models.surgery.layers import KeepLayers
from hf_finetune.pipeline import run as pipeline
from hf_finetune.pipeline.plan import plan
from hf_finetune.pipeline.run import prepare

pytestmark = pytest.mark.usefixtures("gate_here")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return distilled_recipe(tmp_path_factory.mktemp("texts"))


def test_cached_and_fresh_teacher_logits_train_the_same_and_so_does_a_resumed_run(
    texts: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit; and to other weights than without a teacher, or with other kinds."""
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    fresh = trained(texts, tmp_path / "fresh")
    cached = trained(texts, tmp_path / "cached")
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "another"))
    no_room = trained(texts, tmp_path / "no-room", batching=dataclasses.replace(texts.batching, cache_gb=1e-9))
    reused = [result_of(tmp_path / name)["teacher"]["logits_reused"] for name in ("fresh", "cached", "no-room")]
    assert reused == [False, True, False]
    assert furthest(fresh, cached) == furthest(fresh, no_room) == 0.0
    assert furthest(fresh, trained(texts, tmp_path / "alone", objective=Supervised())) > 1e-3
    softer = dataclasses.replace(texts.objective, kinds=(SoftTargets(),))
    assert furthest(fresh, trained(texts, tmp_path / "softer", objective=softer)) > 1e-3

    stop_after(monkeypatch, 3, 10)
    with pytest.raises(StoppedBySignal):
        pipeline.run(texts, Launch(str(tmp_path / "stopped"), resume=True))
    record = tmp_path / "stopped" / "recipe.json"
    whole = record.read_text()
    record.write_text(json.dumps(json.loads(whole) | {"teacher": "another"}))
    with pytest.raises(InputError, match=r"weights of the teacher: the run in .* has 'another', now it is"):
        pipeline.run(texts, Launch(str(tmp_path / "stopped"), resume=True))
    record.write_text(whole)
    tokenizer = Path(texts.objective.teacher) / "tokenizer_config.json"
    settings = tokenizer.read_text()
    tokenizer.write_text(settings + " ")
    with pytest.raises(InputError, match=r"tokenizer_config.json of teacher 1 has changed since the run in"):
        pipeline.run(texts, Launch(str(tmp_path / "stopped"), resume=True))
    tokenizer.write_text(settings)
    with pytest.raises(StoppedBySignal):
        pipeline.run(texts, Launch(str(tmp_path / "stopped"), resume=True))
    # The same one, wherever it lies by now.
    moved = shutil.copytree(texts.objective.teacher, tmp_path / "moved")
    elsewhere = dataclasses.replace(texts.objective, teacher=str(moved))
    assert furthest(fresh, trained(texts, tmp_path / "stopped", objective=elsewhere)) == 0.0


def test_what_a_run_says_of_its_teacher(
    texts: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In result.json and on the card, which a second rendering repeats; and the student is a classifier like any
    other."""
    run = tmp_path / "run"
    surgery = (KeepLayers(first=2), NarrowHidden(ratio=0.5))
    trained(texts, run, model=dataclasses.replace(texts.model, surgery=surgery))
    config = json.loads((run / "model" / "config.json").read_text())
    assert (config["num_hidden_layers"], config["hidden_size"]) == (2, 16)
    result, card = result_of(run), (run / "README.md").read_text()
    found = result["teacher"]
    accuracy, own = (r["metrics"]["validation"]["accuracy"]["value"] for r in (found, result))
    assert found["name"] == "roberta" and found["retention"] == pytest.approx(own / accuracy)
    assert found["difference"]["value"] == pytest.approx(own - accuracy)
    assert result["time"]["teacher_s"] > 0
    assert any("its classes have another order than the data's; they are matched" in n for n in result["notes"])
    assert "roberta: its classes have another order" in card
    assert "distilled from `roberta`" in card and "- Against its teacher `roberta`, whose accuracy is " in card
    kinds = "SoftTargets(temperature=3.0), HardLabel(weight=0.1), MatchLogits(weight=0.1), DecoupledKD(weight=0.1)"
    assert f"| objective.kinds | `{kinds}` |" in card and "| objective.teacher | `roberta` |" in card
    assert str(tmp_path) not in card and str(Path(texts.objective.teacher).parent) not in card
    assert all(f"- {note[0].upper()}{note[1:]}." in card for note in found["notes"])
    stored = json.loads((run / "recipe.json").read_text())["recipe"]["objective"]
    assert stored["type"] == "Distill" and stored["kinds"][1] == {"type": "HardLabel", "weight": 0.1}
    monkeypatch.chdir(tmp_path)
    for command in (
        ["card", str(run)],
        ["evaluate", str(run), texts.data.path],
        ["predict", str(run), texts.data.path, "--output", "labels.csv"],
    ):
        main.COMMANDS[command[0]].run(command[1:])
    assert (run / "README.md").read_text() == card
    said = capsys.readouterr().out
    assert said.startswith(card) and "accuracy" in said.removeprefix(card) and "60 rows -> labels.csv" in said


def test_a_run_of_ours_can_teach(texts: Recipe, tmp_path: Path) -> None:
    """By its folder; and its student, with a head that no stock class has, can teach in its turn."""
    trained(texts, tmp_path / "first", objective=Supervised())
    second = Distill(teacher=str(tmp_path / "first"))
    pooled = dataclasses.replace(texts.model, pooling="mean", head="mlp")
    trained(texts, tmp_path / "second", objective=second, model=pooled)
    found = result_of(tmp_path / "second")["teacher"]
    assert found["metrics"] != {} and found["name"] == "first"
    first = result_of(tmp_path / "first")["metrics"]["validation"]["accuracy"]
    assert found["metrics"]["validation"]["accuracy"] == first
    trained(texts, tmp_path / "third", objective=Distill(teacher=str(tmp_path / "second")))
    third = result_of(tmp_path / "third")["teacher"]["metrics"]["validation"]["accuracy"]
    assert third == result_of(tmp_path / "second")["metrics"]["validation"]["accuracy"]


def test_two_teachers(texts: Recipe, tmp_path: Path) -> None:
    """Their mean is what result.json judges, and the card names both."""
    other = tiny_text_checkpoint(tmp_path / "electra", "electra")
    load_classifier(str(other), task="text-classification", labels=("bad", "good"), seed=8).model.save_pretrained(other)
    both = dataclasses.replace(texts.objective, teacher=(texts.objective.teacher, str(other)))
    trained(texts, tmp_path / "both", objective=both)
    found, card = result_of(tmp_path / "both")["teacher"], (tmp_path / "both" / "README.md").read_text()
    assert found["name"] == "roberta + electra" and [m["name"] for m in found["members"]] == ["roberta", "electra"]
    assert len({found["weights"], *(m["weights"] for m in found["members"])}) == 3
    assert "distilled from `roberta + electra`" in card and "| objective.teacher | `roberta + electra` |" in card
    assert str(tmp_path) not in card


def test_a_run_killed_while_its_teacher_predicts_resumes(
    texts: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the parts that were there: the teacher predicts only the others, and it trains to the same weights, to the
    bit."""
    monkeypatch.setitem(network_teacher.PART_ROWS, "text", 16)
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "whole"))
    straight = dry_run_weights(texts)
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "killed"))
    predict_logits, predicted = network_teacher.predict_logits, []

    def killed(model: Any, rows: Any, *args: Any, **options: Any) -> Any:
        if len(predicted) == 2:
            predicted.append(0)
            raise KeyboardInterrupt
        predicted.append(len(rows))
        return predict_logits(model, rows, *args, **options)

    monkeypatch.setattr(network_teacher, "predict_logits", killed)
    with pytest.raises(KeyboardInterrupt):
        dry_run_weights(texts)
    assert furthest(straight, dry_run_weights(texts)) == 0.0
    # 54 training rows and 6 of validation.
    assert predicted == [16, 16, 0, 16, 6, 6]


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "lora"},
        {"method": "top"},
        {"method": "head"},
        {"copies": 1},
        {"objective": {"r_drop": 1.0, "labels_weight": 0.0}},
    ],
)
def test_what_a_teacher_goes_with(texts: Recipe, tmp_path: Path, fields: dict[str, Any]) -> None:
    """Each trains to other weights than alone; frozen layers are cached as without."""
    recipe = dataclasses.replace(texts, train=dataclasses.replace(texts.train, num_train_epochs=1.0))
    copies, objective = fields.pop("copies", 0), fields.pop("objective", {})
    if copies:
        recipe = dataclasses.replace(
            recipe, data=dataclasses.replace(recipe.data, augment=(SwapWords(),), augment_copies=1)
        )
    taught = dataclasses.replace(recipe.objective, **objective)
    alone, student = (
        trained(recipe, tmp_path / name, objective=chosen, **fields)
        for name, chosen in (("alone", Supervised()), ("student", taught))
    )
    assert furthest(alone, student) > 1e-4
    result = result_of(tmp_path / "student")
    assert result["cache"]["used"] == (fields.get("method") in ("head", "top"))


def test_images(tmp_path: Path) -> None:
    """A tiny ViT taught by a tiny ResNet."""
    big = tiny_image_checkpoint(tmp_path / "resnet", "resnet")
    load_classifier(str(big), task="image-classification", labels=("dark", "bright"), seed=7).model.save_pretrained(big)
    recipe = dataclasses.replace(
        small_recipe(tmp_path),
        data=ImageData(path=str(image_folder(tmp_path / "train", 24))),
        model=Model(checkpoint=str(tiny_image_checkpoint(tmp_path / "vit"))),
    )
    alone = trained(recipe, tmp_path / "alone")
    taught = trained(recipe, tmp_path / "taught", objective=Distill(teacher=str(big), labels_weight=0.1))
    assert furthest(alone, taught) > 1e-6
    flipped = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, augment=(Flip(),)))
    alone = trained(flipped, tmp_path / "flipped")
    taught = trained(flipped, tmp_path / "flipped-taught", objective=Distill(teacher=str(big), labels_weight=0.1))
    assert furthest(alone, taught) > 1e-6

    ViTImageProcessor(size={"shortest_edge": 32}).save_pretrained(big)
    wide = image_folder(tmp_path / "wide", 24)
    for number, file in enumerate(sorted(wide.glob("*/*.png"))[::2]):
        Image.new("RGB", (64, 32), (number, 0, 0)).save(file)
    with pytest.raises(InputError, match=r"^objective.teacher: .*resnet: the checkpoint's .* images of several sizes"):
        prepare(dataclasses.replace(recipe, data=ImageData(str(wide)), objective=Distill(teacher=str(big))))
    ViTImageProcessor(size={"height": 48, "width": 48}).save_pretrained(big)
    with pytest.raises(InputError, match=r"data.augment: expected none beside .*resnet, .*48, 48."):
        pipeline.run(
            dataclasses.replace(flipped, objective=Distill(teacher=str(big))), Launch(str(tmp_path / "refused"))
        )
    assert not (tmp_path / "refused").exists()


def test_plan(texts: Recipe) -> None:
    made = plan(prepare(texts))
    assert made.steps == 14 and made.parts["teacher_s"] > 0
    assert plan(prepare(dataclasses.replace(texts, objective=Supervised()))).parts["teacher_s"] == 0


def test_a_head_is_not_fitted_to_labels_that_are_not_looked_at(texts: Recipe, tmp_path: Path) -> None:
    trained(texts, tmp_path / "taught", objective=dataclasses.replace(texts.objective, labels_weight=0.0))
    assert result_of(tmp_path / "taught")["head"] is None
