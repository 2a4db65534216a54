"""Whole runs that pretrain first: what is saved and said, that they can be stopped anywhere, and what is refused."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.checkpoints import load_classifier
from helpers.pretrained import pretrained_images, pretrained_texts, same
from helpers.small_runs import stop_after
from helpers.tiny import tiny_image_checkpoint, tiny_text_checkpoint
from safetensors.torch import load_file
from transformers import AutoModel

from hf_finetune import ImageData, Launch, Model, Recipe, TextData
from hf_finetune.augmentation.compose import Sometimes
from hf_finetune.augmentation.image.geometry import Flip
from hf_finetune.cli.overrides import parse_run
from hf_finetune.cli.run_job import RunJob
from hf_finetune.cli.search import parse_search
from hf_finetune.config.rules import unused_options
from hf_finetune.data.provenance import row_keys, trained_on
from hf_finetune.errors import InputError, StoppedBySignal
from hf_finetune.pipeline import run as pipeline
from hf_finetune.pipeline.load_data import load_splits
from hf_finetune.pipeline.measure_costs import time_pretraining
from hf_finetune.pipeline.plan import plan
from hf_finetune.pipeline.pretrain import pretrain
from hf_finetune.pipeline.record import RunRecord
from hf_finetune.pipeline.run import prepare
from hf_finetune.pretraining.config import (
    MAE,
    ImageObjective,
    MaskedLanguage,
    Pretrain,
    SimCLR,
    SimCSE,
    SimMIM,
)
from hf_finetune.utils.plain import merge, short_repr, to_plain

pytestmark = pytest.mark.usefixtures("gate_here")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return pretrained_texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return pretrained_images(tmp_path_factory.mktemp("pictures"))


def trained(recipe: Recipe, folder: Path, **fields: Any) -> dict[str, torch.Tensor]:
    """The weights that a run saves, resumed where it was stopped; what it saved is gated."""
    result = pipeline.run(dataclasses.replace(recipe, **fields), Launch(str(folder), resume=True))
    assert result is not None and all(check["ok"] for check in result["parity"].values())
    return load_file(folder / "model" / "model.safetensors")


def result_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def test_a_run_in_two_stages(texts: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says; that the second stage begins with what the first one left; and that it can be stopped in either."""
    run = tmp_path / "run"
    straight = trained(texts, run)
    found, card = result_of(run)["pretrain"], (run / "README.md").read_text()
    # 60 rows, of which 6 are validation and 3 repeated; 2 of the further ones are new.
    assert found["rows"] == {"pretrained": 50, "held_out": 3, "of_train": 51, "of_further": 2}
    assert found["left_out"] == {"evaluated": 2, "repeated": 4, "unusable": 0}
    assert found["steps"] == 7 and found["kept_step"] == 7 and found["seconds"] >= found["loop_s"] > 0
    assert found["held_out_loss"]["kept"] == found["held_out_loss"]["last"] < found["held_out_loss"]["first"]
    assert found["loss"]["last"] < found["loss"]["first"]
    assert result_of(run)["rows"]["train"] == 20 and result_of(run)["time"]["pretrain_s"] == found["seconds"]
    assert (
        "`MaskedLanguage(share=0.3)` on 50 rows, 3 held out: 51 from the training data, 2 from elsewhere, all without "
        "labels. Dropped: 2 that are validation or test rows, 4 duplicates, 0 empty or damaged."
    ) in card
    losses = found["held_out_loss"]
    assert (
        f"- 7 steps at a peak learning rate of 0.003, best at step 7; loss of the held-out rows {losses['first']:.3f} "
        f"before, {losses['kept']:.3f} after."
    ) in card
    assert ", after continued pretraining on unlabeled rows" in card and str(tmp_path) not in card
    assert not (run / "pretraining" / "checkpoints").exists()
    # What either stage saw, from wherever one goes on: all rows but those of validation.
    seen = trained_on(str(run))
    assert np.array_equal(trained_on(str(run / "pretrained")), seen)
    assert np.isin(row_keys(load_splits(texts.data).train), seen).all()
    assert len(seen) == 53

    kept = AutoModel.from_pretrained(run / "pretrained")
    before = AutoModel.from_pretrained(texts.model.checkpoint)
    moved = {n for n, x in kept.state_dict().items() if not torch.equal(x, before.state_dict()[n])}
    assert "encoder.layer.0.output.dense.weight" in moved and not any(n.startswith("pooler") for n in moved)
    from_there = dataclasses.replace(texts.model, checkpoint=str(run / "pretrained"))
    assert same(straight, trained(texts, tmp_path / "second", model=from_there, pretrain=Pretrain()))
    assert not same(straight, trained(texts, tmp_path / "alone", pretrain=Pretrain()))

    stopped = tmp_path / "stopped"
    stop_after(monkeypatch, 3, 2)
    for stage in ("pretraining", ""):
        with pytest.raises(StoppedBySignal):
            pipeline.run(texts, Launch(str(stopped), resume=True))
        assert (stopped / stage / "checkpoints").is_dir()
    written = (stopped / "pretrained" / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(InputError, match=r"fingerprint of the rows without labels: the run in .* has '\w+', now it is"):
        fewer = dataclasses.replace(texts.pretrain, rows=())
        refused = dataclasses.replace(texts, pretrain=fewer)
        record = stopped / "recipe.json"
        plain = json.loads(record.read_text())
        record.write_text(json.dumps({**plain, "recipe": {**plain["recipe"], "pretrain": to_plain(fewer)}}))
        pipeline.run(refused, Launch(str(stopped), resume=True))
    record.write_text(json.dumps(plain))
    assert same(straight, trained(texts, stopped))
    assert (stopped / "pretrained" / "model.safetensors").stat().st_mtime_ns == written
    assert same(load_file(run / "pretrained/model.safetensors"), load_file(stopped / "pretrained/model.safetensors"))
    first, again = (json.loads((f / "pretrained/pretraining.json").read_text()) for f in (run, stopped))
    assert first["held_out_loss"] == again["held_out_loss"] and first["loss"] == again["loss"]


def test_stopped_after_its_last_step(texts: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal between two stages says that there is something to resume; a line that a kill has cut off is removed."""
    run, moments = tmp_path / "run", ("pretrain._save", "run.fit")

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for moment in moments:
        with monkeypatch.context() as patch, pytest.raises(StoppedBySignal, match="--resume continues from the last"):
            patch.setattr(f"hf_finetune.pipeline.{moment}", interrupted)
            pipeline.run(texts, Launch(str(run), resume=moment != moments[0]))
        if moment == moments[0]:
            log = run / "pretraining" / "log.jsonl"
            whole = log.read_text()
            log.write_text(f'{whole}{{"step": 7, "lo')
    assert log.read_text() == whole
    report = json.loads((run / "pretrained" / "pretraining.json").read_text())
    assert report["loss"]["last"] < report["loss"]["first"] and report["steps"] == 7
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("hf_finetune.pipeline.run.fit", interrupted)
        pipeline.run(dataclasses.replace(texts, pretrain=Pretrain()), Launch(str(tmp_path / "nothing")))


def test_with_and_without(texts: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The recipe alone has so many more steps that all steps take as long, and the difference is reported, row by
    row."""
    run = tmp_path / "run"
    caplog.set_level("INFO")
    trained(texts, run, pretrain=dataclasses.replace(texts.pretrain, compare=True))
    # Of the run, which the test resumes, and not of the one without the stage.
    assert sum("nothing to resume" in line for line in caplog.messages) == 1
    without, alone = result_of(run)["pretrain"]["without"], result_of(run / "without")
    assert without["steps"] == alone["steps"] > result_of(run)["steps"]
    assert without["accuracy"] == alone["metrics"]["validation"]["accuracy"] and alone["pretrain"] is None
    own = result_of(run)["metrics"]["validation"]["accuracy"]["value"]
    assert without["difference"]["value"] == pytest.approx(own - without["accuracy"]["value"])
    assert without["difference"]["verdict"] in ("better", "no worse", "worse", "undecided")
    card = (run / "README.md").read_text()
    assert (
        f"- Against the same recipe without pretraining, trained for {without['steps']} steps so that the steps take "
        "the same time in total ("
    ) in card
    assert f" points of accuracy, {without['difference']['verdict']}." in card
    # Without a test split.
    assert (
        "- Both runs chose their best epoch on these rows. The run without pretraining chose among more epochs" in card
    )


def test_without_it_for_as_long_after_a_restart(texts: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the stages took when they ended, though one loss alone is logged of each, and whatever was stopped
    when."""
    recipe = dataclasses.replace(
        texts,
        train=dataclasses.replace(texts.train, logging_steps=10),
        pretrain=dataclasses.replace(texts.pretrain, compare=True),
    )
    stop_after(monkeypatch, 3, 2, 1)
    for stage in ("pretraining", "", "without"):
        with pytest.raises(StoppedBySignal):
            pipeline.run(recipe, Launch(str(tmp_path), resume=True))
        assert (tmp_path / stage / "checkpoints").is_dir()
    took = json.loads((tmp_path / "pretraining/stages.json").read_text())
    trained(recipe, tmp_path)
    found, alone = result_of(tmp_path)["pretrain"], result_of(tmp_path / "without")
    epochs = json.loads((tmp_path / "without/recipe.json").read_text())["recipe"]["train"]["num_train_epochs"]
    assert epochs == 1 + took["pretrain_s"] / took["train_s"] and took["pretrain_s"] == found["loop_s"]
    assert found["without"]["loop_s"] == alone["time"]["all_steps_s"] > 0
    assert found["without"]["loop_s_with"] == pytest.approx(sum(took.values()), abs=0.01)
    # 7 steps and 3, of which those before a restart count.
    assert found["without"]["steps"] == math.ceil(3 * epochs) < 60


def test_sentences_and_an_adapter(texts: Recipe, tmp_path: Path) -> None:
    """SimCSE before LoRA: the adapter is merged, and not offered for a checkpoint that is not the one it was trained
    on."""
    pretrain = dataclasses.replace(texts.pretrain, objective=SimCSE(pooling="mean"), num_train_epochs=2.0)
    result = pipeline.run(dataclasses.replace(texts, pretrain=pretrain, method="lora"), Launch(str(tmp_path / "run")))
    assert result["artefacts"] == ["model"] and not (tmp_path / "run" / "adapter").exists()
    assert any(note.startswith("adapter: ") and "pretraining" in note for note in result["notes"])
    found = result["pretrain"]
    assert found["objective"] == "SimCSE(pooling='mean')"
    assert found["held_out_loss"]["kept"] != found["held_out_loss"]["first"]


@pytest.mark.parametrize(
    "objective", [SimMIM(block=8), MAE(decoder_layers=1), SimCLR(augment=(Flip(),))], ids=lambda o: type(o).__name__
)
def test_images(pictures: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: ImageObjective) -> None:
    """It learns; plain transformers loads what is left of it; stopped in the stage it comes to the same weights."""
    recipe = dataclasses.replace(pictures, pretrain=dataclasses.replace(pictures.pretrain, objective=objective))
    run, stopped = tmp_path / "run", tmp_path / "stopped"
    found = pipeline.run(recipe, Launch(str(run)))["pretrain"]
    held_out = 2 if isinstance(objective, SimCLR) else 1
    assert found["rows"]["pretrained"] == 22 - held_out and found["rows"]["held_out"] == held_out
    assert found["held_out_loss"]["kept"] < found["held_out_loss"]["first"]
    assert found["objective"] == short_repr(objective)
    assert f"`{short_repr(objective)}` on " in (run / "README.md").read_text()
    kept, before = (AutoModel.from_pretrained(f).state_dict() for f in (run / "pretrained", recipe.model.checkpoint))
    moved = {name for name, x in kept.items() if not torch.equal(x, before[name])}
    assert kept.keys() == before.keys() and "layers.0.mlp.fc1.weight" in moved
    assert not any(name.startswith("pooler") for name in moved)

    prepared = prepare(recipe)
    assert time_pretraining(prepared) > 0
    stop_after(monkeypatch, 5)
    with pytest.raises(StoppedBySignal):
        pretrain(prepared, stopped, RunRecord.from_run(prepared))
    pretrain(prepared, stopped, RunRecord.from_run(prepared))
    assert same(*(load_file(folder / "pretrained/model.safetensors") for folder in (run, stopped)))


def test_a_head_that_pretraining_leaves_behind(texts: Recipe, tmp_path: Path) -> None:
    """Of a classifier of the very classes: taken over by itself, but not where a stage before hands over the encoder
    alone."""
    checkpoint = tiny_text_checkpoint(tmp_path / "classifier")
    load_classifier(str(checkpoint), task="text-classification", labels=("bad", "good")).model.save_pretrained(
        checkpoint
    )
    recipe = dataclasses.replace(texts, model=Model(str(checkpoint)))
    alone, after = (prepare(dataclasses.replace(recipe, pretrain=stage)) for stage in (Pretrain(), recipe.pretrain))
    kept, replaced = (
        "it has a head for these 2 classes",
        "its head for 2 classes is replaced: only the encoder is pretrained",
    )
    for prepared, said, not_said, fresh in ((alone, kept, replaced, ()), (after, replaced, kept, ("classifier",))):
        notes = " ".join(prepared.notes)
        assert said in notes and not_said not in notes and prepared.model.fresh == fresh


def test_plan(texts: Recipe) -> None:
    """The stage's time by its own steps, and that of the run without it where both are compared."""
    made = plan(prepare(dataclasses.replace(texts, pretrain=dataclasses.replace(texts.pretrain, compare=True))))
    assert made.parts["without_s"] > made.parts["pretrain_s"] > 0
    assert "\npretraining   about " in str(made)


PICTURES = {"data": ImageData(path="x")}


def test_refused_before_anything_is_written(texts: Recipe, tmp_path: Path) -> None:
    """A family or a model that the objective is not for, and rows that are not there."""
    swin = Model(checkpoint=str(tiny_image_checkpoint(tmp_path / "swin", "swin")))
    nowhere = ImageData(path="nowhere")
    for fields, said in (
        (
            {"pretrain": dataclasses.replace(texts.pretrain, rows=("nowhere.csv",))},
            "nowhere.csv: no such file or folder",
        ),
        (
            {
                "pretrain": Pretrain(SimCSE()),
                "model": dataclasses.replace(texts.model, dropout=0.0),
            },
            "pretrain.objective: SimCSE needs dropout",
        ),
        # By its config: the data are not looked for.
        (
            {"pretrain": Pretrain(MAE()), "model": swin, "data": nowhere},
            "MAE expects a vit, deit or dinov2 checkpoint, got swin",
        ),
    ):
        with pytest.raises(InputError, match=said):
            pipeline.run(dataclasses.replace(texts, **fields), Launch(str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_flags(texts: Recipe, tmp_path: Path) -> None:
    """By flags, by YAML, and back from recipe.json; without an objective the other fields are said to do nothing."""
    plain = dataclasses.replace(texts, pretrain=Pretrain())
    flags = ["--pretrain.objective", "{type: MaskedLanguage, span: 10}", "--pretrain.rows", "a.csv", "b.csv"]
    job = parse_run(RunJob(plain), [*flags, "--pretrain.compare", "--rows-per-class", "20"], "x")
    assert job.recipe.pretrain == Pretrain(MaskedLanguage(span=10), rows=("a.csv", "b.csv"), compare=True)
    assert job.recipe.data.rows_per_class == 20
    deeper = parse_run(RunJob(job.recipe), ["--pretrain.objective.share", "0.2"], "x").recipe
    assert deeper.pretrain.objective == MaskedLanguage(share=0.2, span=10)
    blank = Recipe(name="", data=TextData(path=""), model=Model(checkpoint=""))
    assert merge(blank, to_plain(job.recipe)) == job.recipe
    views = ["--pretrain.objective", "{type: SimCLR, augment: [Flip, {type: Sometimes, operation: Flip}]}"]
    views += ["--pretrain.objective.temperature", "0.5", "--pretrain.objective.augment.0.p", "0.2"]
    job = parse_run(RunJob(plain), views, "x")
    assert job.recipe.pretrain.objective == SimCLR(0.5, augment=(Flip(p=0.2), Sometimes(Flip())))
    assert merge(blank, to_plain(job.recipe)) == job.recipe
    assert short_repr(SimCLR()) == "SimCLR()" and short_repr(MAE(0.5)) == "MAE(share=0.5)"
    idle = dataclasses.replace(plain, pretrain=Pretrain(rows=("a.csv",)))
    assert unused_options(idle) == ("pretrain.rows has no effect here: pretrain.objective is not set",)
    with pytest.raises(InputError, match=r"--pretrain.objective: .*search"):
        parse_search(["nowhere", "--text", "a", "--pretrain.objective", "SimCSE"], "x")
