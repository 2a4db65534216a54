"""Whole runs of a student: what is saved and said, that they can be resumed, what they go with, and what is refused."""

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from helpers.checkpoints import load_classifier
from helpers.ranks import run_in_two_processes
from helpers.small_runs import image_folder, small_recipe, stop_after, text_rows
from helpers.tiny import tiny_image_checkpoint, tiny_text_checkpoint
from PIL import Image
from safetensors.torch import load_file
from transformers import ViTImageProcessor

from hf_finetune import Batching, Distill, ImageData, Launch, Model, Optim, Recipe, Supervised, Train
from hf_finetune.augmentation.compose import Sometimes
from hf_finetune.augmentation.image.geometry import Flip
from hf_finetune.augmentation.online import AugmentedRows
from hf_finetune.augmentation.text.words import SwapWords
from hf_finetune.cli import main
from hf_finetune.cli.overrides import parse_run
from hf_finetune.cli.run_job import RunJob
from hf_finetune.cli.search import parse_search
from hf_finetune.cli.train import TrainJob, parse_train
from hf_finetune.config.rules import check
from hf_finetune.data.unlabeled import with_labeled_row
from hf_finetune.distillation.config import DecoupledKD, HardLabel, MatchLogits, SoftTargets
from hf_finetune.distillation.predictions import OnlinePredictions
from hf_finetune.distillation.teachers import network as network_teacher
from hf_finetune.distillation.weight_schedules import Ramp
from hf_finetune.errors import InputError, StoppedBySignal
from hf_finetune.models.surgery.hidden_width import NarrowHidden
from hf_finetune.models.surgery.layers import KeepLayers
from hf_finetune.pipeline import run as pipeline
from hf_finetune.pipeline.choose_kernels import default_kernels
from hf_finetune.pipeline.load_data import load_splits
from hf_finetune.pipeline.plan import plan
from hf_finetune.pipeline.run import prepare
from hf_finetune.training.losses.config import Balanced
from hf_finetune.training.probe import KernelChoice
from hf_finetune.utils.plain import merge, to_plain

pytestmark = pytest.mark.usefixtures("gate_here")
KINDS = (SoftTargets(3.0), HardLabel(0.1), MatchLogits(0.1), DecoupledKD(weight=0.1))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A tiny BERT, taught by a tiny RoBERTa whose head is at random and whose classes are the other way round."""
    folder = tmp_path_factory.mktemp("texts")
    plain = small_recipe(folder)
    big = tiny_text_checkpoint(folder / "roberta", "roberta")
    load_classifier(str(big), task="text-classification", labels=("good", "bad"), seed=7).model.save_pretrained(big)
    return dataclasses.replace(
        plain,
        train=Train(num_train_epochs=2.0, per_device_train_batch_size=4, learning_rate=1e-3, logging_steps=1),
        batching=Batching(rows_per_step=8),
        objective=Distill(teacher=str(big), kinds=KINDS),
    )


def trained(recipe: Recipe, folder: Path, **fields: Any) -> dict[str, torch.Tensor]:
    """The weights that a run of the recipe with other fields saves, resumed where it was stopped; what it saved is
    gated."""
    result = pipeline.run(dataclasses.replace(recipe, **fields), Launch(str(folder), resume=True))
    assert result is not None and all(check["ok"] for check in result["parity"].values())
    return load_file(next(folder.glob("*/*model.safetensors")))


def result_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def dry_run_weights(recipe: Recipe) -> dict[str, torch.Tensor]:
    """The weights that a run of the recipe ends with, without what is saved and judged: in half the time."""
    prepared = prepare(recipe)
    with tempfile.TemporaryDirectory() as folder:
        trained = pipeline.fit_dry(prepared, Path(folder), KernelChoice(default_kernels(prepared)))
    return {name: tensor.detach().clone() for name, tensor in trained.trainer.trained_model().state_dict().items()}


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[n] - other[n]).abs().max()) for n in one)


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


SCRIPT = """
import json, sys
from pathlib import Path
import torch
from hf_finetune.pipeline.choose_kernels import default_kernels
from hf_finetune.pipeline.run import prepare, fit_dry
from hf_finetune.utils.plain import merge
from hf_finetune import Model, Recipe, TextData
from hf_finetune.training.probe import KernelChoice

folder = Path(sys.argv[1])
for name in ("kept", "live"):
    blank = Recipe(name="", data=TextData(path=""), model=Model(checkpoint=""))
    prepared = prepare(merge(blank, json.loads((folder / f"{name}.json").read_text())))
    trained = fit_dry(prepared, folder / name, KernelChoice(default_kernels(prepared)))
    trainer, predictions = trained.trainer, trained.setup.teacher.predictions
    assert trainer.args.world_size == 2 and (predictions.online is not None) == (name == "live")
    torch.save(trainer.trained_model().state_dict(), folder / f"{name}-{trainer.args.process_index}.pt")
# A teacher may take longer than the half hour that processes wait for one another by default.
group = torch.distributed.group.WORLD._get_backend(torch.device("cpu"))
assert group.options._timeout.total_seconds() >= 24 * 3600
"""


def test_a_teacher_predicts_the_same_in_two_processes(texts: Recipe, tmp_path: Path) -> None:
    """Cached or online, the two end with the weights of one process with cached logits."""
    recipe = dataclasses.replace(
        texts,
        model=dataclasses.replace(texts.model, dropout=0.0),
        optim=Optim(word_embeddings="dense"),
        data=dataclasses.replace(texts.data, unlabeled=("train",), max_train_rows=20),
    )
    live = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, augment=(Sometimes(SwapWords(), p=0.0),)))
    for name, one in (("kept", recipe), ("live", live)):
        (tmp_path / f"{name}.json").write_text(json.dumps(to_plain(one)))
    alone = dry_run_weights(recipe)
    run_in_two_processes(SCRIPT, tmp_path, folder=tmp_path)
    for name in ("kept", "live"):
        first, second = (torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True) for rank in range(2))
        assert furthest(first, second) == 0.0
        assert max(float((first[n] - alone[n]).abs().max()) for n in alone if not n.endswith("key.bias")) < 1e-3


def test_teacher_predictions_from_a_file(texts: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `predict --digests` writes teaches as the classifier itself: the probabilities of all rows, carved or
    not."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    big, given = texts.objective.teacher, tmp_path / "given.parquet"
    main.COMMANDS["predict"].run([big, texts.data.path, "--output", given.name, "--digests", "--precision", "float32"])
    # Logits are known but for a constant.
    soft = {"kinds": (SoftTargets(), HardLabel(0.1))}
    by_model, by_file = (
        dry_run_weights(
            dataclasses.replace(texts, objective=dataclasses.replace(texts.objective, teacher=name, **soft))
        )
        for name in (big, str(given))
    )
    assert furthest(by_model, by_file) < 1e-4
    augmented = dataclasses.replace(texts.data, augment=(SwapWords(),))
    taught = dataclasses.replace(texts, objective=Distill(teacher=str(given)))
    with pytest.raises(InputError, match=r"^data.augment: expected none beside .*given.parquet"):
        prepare(dataclasses.replace(taught, data=augmented))
    pq.write_table(pq.read_table(given).slice(1), given)
    with pytest.raises(
        InputError, match=r"^objective.teacher: .* (train|validation), .*given.parquet for 1 of the \d+ rows"
    ):
        prepare(taught)


def test_unlabelled_rows(texts: Recipe, tmp_path: Path) -> None:
    """20 rows of a further file, two of them scored ones: taught with their stored copies, and no part of the
    baselines."""
    held_out = load_splits(texts.data).validation["text"][:2]
    lines = ["text", *held_out, *(f"{row['text']} indeed" for row in text_rows(18, seed=5))]
    (tmp_path / "more.csv").write_text("\n".join(lines))
    data = dataclasses.replace(
        texts.data, unlabeled=(str(tmp_path / "more.csv"),), augment=(SwapWords(),), augment_copies=1
    )
    fields = {"train": dataclasses.replace(texts.train, num_train_epochs=1.0), "data": data}
    fields |= {"evaluate": dataclasses.replace(texts.evaluate, baselines=True)}
    fields |= {"batching": dataclasses.replace(texts.batching, sampling="balanced")}
    assert plan(prepare(dataclasses.replace(texts, **fields))).steps == 18
    trained(texts, tmp_path / "run", **fields)
    result = result_of(tmp_path / "run")
    assert result["rows"] == {"train": 54, "unlabelled": 18, "validation": 6} and result["steps"] == 18
    assert result["data"]["unlabelled"] == {"rows": 18, "evaluated": 2, "repeated": 0, "unusable": 0}
    assert result["augmentation"]["training_rows"] == 144 and sum(result["data"]["rows_per_class"].values()) == 54
    card = (tmp_path / "run" / "README.md").read_text()
    assert "18 rows of more.csv for the teacher to label; dropped: 2 that equal" in card


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


def test_online_and_cached_teacher_logits_train_the_same(texts: Recipe, tmp_path: Path) -> None:
    """Views that are the rows as they are: the same weights to rounding, whenever the teacher predicted them."""
    recipe = dataclasses.replace(texts, optim=Optim(word_embeddings="dense"))
    data = dataclasses.replace(recipe.data, augment=(Sometimes(SwapWords(), p=0.0),))
    weights = trained(recipe, tmp_path / "kept"), trained(recipe, tmp_path / "live", data=data)
    # Softmax cancels a key's bias: its gradient is rounding alone, which Adam makes as large as any other.
    kept, live = ({n: w for n, w in side.items() if not n.endswith("key.bias")} for side in weights)
    assert furthest(kept, live) < 1e-4
    assert [result_of(tmp_path / name)["teacher"]["live"] for name in ("kept", "live")] == [False, True]
    assert result_of(tmp_path / "live")["time"]["teacher_s"] > 0


def test_a_row_drawn_again_is_the_view_that_the_teacher_predicted(texts: Recipe, tmp_path: Path) -> None:
    """The teacher predicts one view of each row in an epoch; the rare class's come several times."""
    header, *lines = Path(texts.data.path).read_text().splitlines()
    good = [line for line in lines if line.endswith("good")]
    bad = [line for line in lines if line.endswith("bad")]
    (tmp_path / "rare.csv").write_text("\n".join([header, *good, *bad[:10]]))
    recipe = dataclasses.replace(
        texts,
        data=dataclasses.replace(texts.data, path=str(tmp_path / "rare.csv"), augment=(SwapWords(0.5),)),
        batching=dataclasses.replace(texts.batching, sampling="balanced"),
    )
    trained(recipe, tmp_path / "run")
    found = result_of(tmp_path / "run")
    assert found["teacher"]["live"] and found["rows"]["train"] == 36


def test_a_teacher_predicts_every_view_as_it_is(texts: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as its row: the weights are others; a run that was stopped goes on with the same views and logits, to the
    bit. And another run of the same views finds the logits cached."""
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    recipe = dataclasses.replace(texts, data=dataclasses.replace(texts.data, augment=(SwapWords(0.5),)))
    predict_views, predicted = OnlinePredictions.__call__, []

    def remember(self: OnlinePredictions, views: AugmentedRows) -> Any:
        predicted.extend(views.texts()["text"])
        return predict_views(self, views)

    monkeypatch.setattr(OnlinePredictions, "__call__", remember)
    straight = trained(recipe, tmp_path / "straight")
    rows = {row["text"] for row in text_rows(60)}
    # 54 rows in each of two epochs, few of them as they were, or as in the other.
    assert len(predicted) == 108 and len(set(predicted) - rows) > 60 and len(set(predicted)) > 80

    with monkeypatch.context() as patched:
        patched.setattr(network_teacher, "predict_logits", None)
        assert furthest(straight, trained(recipe, tmp_path / "again")) == 0.0

    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "another"))
    stop_after(monkeypatch, 3)
    with pytest.raises(StoppedBySignal):
        pipeline.run(recipe, Launch(str(tmp_path / "stopped"), resume=True))
    assert furthest(straight, trained(recipe, tmp_path / "stopped")) == 0.0


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


def test_a_plan_tries_a_row_with_a_label_where_they_are_rare(texts: Recipe, tmp_path: Path) -> None:
    """Of many rows that only the teacher labels, the few that are tried had none."""
    more = tmp_path / "more.csv"
    more.write_text("text\n" + "".join(f"film number {i} of them all\n" for i in range(1500)))
    recipe = dataclasses.replace(
        texts,
        data=dataclasses.replace(texts.data, unlabeled=(str(more),), max_train_rows=2),
        objective=dataclasses.replace(texts.objective, class_weights=Balanced()),
    )
    assert plan(prepare(recipe)).parts["teacher_s"] > 0
    labels = Dataset.from_dict({"label": [-1, 0, -1, 1]})
    assert list(with_labeled_row(np.array([2, 0]), labels)) == [0, 1, 2]
    assert list(with_labeled_row(np.array([3, 0]), labels)) == [0, 3]


def test_a_head_is_not_fitted_to_labels_that_are_not_looked_at(texts: Recipe, tmp_path: Path) -> None:
    trained(texts, tmp_path / "taught", objective=dataclasses.replace(texts.objective, labels_weight=0.0))
    assert result_of(tmp_path / "taught")["head"] is None


def test_a_live_teacher_is_not_the_students_time(texts: Recipe, tmp_path: Path) -> None:
    trained(texts, tmp_path / "live", data=dataclasses.replace(texts.data, augment=(SwapWords(),)))
    found = result_of(tmp_path / "live")
    loop_s = found["time"]["train_loop_s"] + found["time"]["probe_s"]
    assert found["time"]["all_steps_s"] > found["time"]["train_loop_s"]
    assert found["throughput"]["train_rows_per_s"] == pytest.approx(2 * found["rows"]["train"] / loop_s, rel=0.05)


def test_processes_that_read_rows_need_no_teacher(texts: Recipe) -> None:
    """The logits of an epoch's views are there before they begin."""
    recipe = dataclasses.replace(
        texts,
        data=dataclasses.replace(texts.data, augment=(SwapWords(),)),
        train=dataclasses.replace(texts.train, num_train_epochs=1.0),
    )
    workers = dataclasses.replace(recipe.train, extra={"dataloader_num_workers": 1})
    assert furthest(dry_run_weights(recipe), dry_run_weights(dataclasses.replace(recipe, train=workers))) == 0.0


def test_unlabelled_rows_need_a_teacher(texts: Recipe) -> None:
    data = dataclasses.replace(texts.data, unlabeled=("more.csv",))
    with pytest.raises(InputError, match=r"^data.unlabeled: "):
        check(dataclasses.replace(texts, data=data, objective=Supervised()))
    job = parse_train(TrainJob, ["nowhere", "--text", "a", "--teacher", "big", "--unlabeled", "b.csv", "c.csv"], "x")
    assert job.recipe.data.unlabeled == ("b.csv", "c.csv")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--teacher", "big"], Distill(teacher="big", label_smoothing=0.1)),
        (["--objective.teacher=big", "--objective.labels-weight", "0"], Distill(teacher="big", labels_weight=0.0, label_smoothing=0.1)),
        (
            ["--teacher", "big", "--objective.kinds", "[HardLabel, {type: SoftTargets, temperature: 4}]"],
            Distill(teacher="big", kinds=(HardLabel(), SoftTargets(4.0)), label_smoothing=0.1),
        ),
        (["--teacher", "big", "--objective.kinds.0.temperature", "5"], Distill(teacher="big", kinds=(SoftTargets(5.0),), label_smoothing=0.1)),
        (["--teacher", "big", "--objective.labels-weight", "0.9:0.1"], Distill(teacher="big", labels_weight=Ramp(0.9, 0.1), label_smoothing=0.1)),
        (["--objective", "{type: Distill, teacher: big, labels_weight: {start: 0, end: 1, form: cosine}}"], Distill(teacher="big", labels_weight=Ramp(0.0, 1.0, "cosine"))),
        (["--objective", "{type: Distill, teacher: big}"], Distill(teacher="big")),
        (["--teacher", "big", "bigger"], Distill(teacher=("big", "bigger"), label_smoothing=0.1)),
        (["--objective", "{type: Distill, teacher: [big, bigger]}"], Distill(teacher=("big", "bigger"))),
        (["--objective.label-smoothing", "0.2"], Supervised(label_smoothing=0.2)),
    ],
)  # fmt: skip
def test_flags(texts: Recipe, flags: list[str], expected: Supervised) -> None:
    """A teacher leaves what the objective said before; an objective written out begins anew."""
    recipe = dataclasses.replace(texts, objective=Supervised(label_smoothing=0.1))
    assert parse_run(RunJob(recipe), flags, "x").recipe.objective == expected
    taught = dataclasses.replace(recipe, objective=expected)
    blank = Recipe(name="", data=texts.data, model=texts.model)
    assert merge(blank, to_plain(taught)) == taught


def test_a_teacher_by_yaml_and_by_train(texts: Recipe, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "data: {text: a}\nobjective: {type: Distill, teacher: runs/big, kinds: [HardLabel]}"
    )
    job = parse_train(TrainJob, ["nowhere", "--config", str(tmp_path / "mine.yaml")], "x")
    assert job.recipe.objective == Distill(teacher="runs/big", kinds=(HardLabel(),))
    job = parse_train(TrainJob, ["nowhere", "--text", "a", "--teacher", "big"], "x")
    assert job.recipe.objective == Distill(teacher="big")
    # A student's fields from the file, its teacher from a flag; both, too, over a recipe that had neither.
    plain = RunJob(dataclasses.replace(texts, objective=Supervised(label_smoothing=0.1)))
    for written, expected in (
        ("{labels_weight: 0.3}", Distill(teacher="big", labels_weight=0.3, label_smoothing=0.1)),
        ("{type: Distill, kinds: [HardLabel]}", Distill(teacher="big", kinds=(HardLabel(),))),
        ("{type: Distill, teacher: other}", Distill(teacher="big")),
        ("Distill", Distill(teacher="big")),
        ("{type: Supervised, r_drop: 1}", Distill(teacher="big", r_drop=1.0)),
    ):
        (tmp_path / "mine.yaml").write_text(f"objective: {written}")
        flags = ["--config", str(tmp_path / "mine.yaml"), "--teacher", "big"]
        assert parse_run(plain, flags, "x").recipe.objective == expected, written
    with pytest.raises(InputError, match=r"--teacher: .*search"):
        parse_search(["nowhere", "--text", "a", "--teacher", "big"], "x")
    with pytest.raises(InputError, match=r"^--objective.labels-weight: .*--teacher MODEL"):
        parse_train(TrainJob, ["nowhere", "--text", "a", "--objective.labels-weight", "0.2"], "x")
    with pytest.raises(InputError, match=r"objective.teacher: this field is needed"):
        parse_train(TrainJob, ["nowhere", "--text", "a", "--objective", "Distill"], "x")
