"""Whole runs of students: a DeiT's two heads, teachers of convolutions, a network taught by its own kind, adapters."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import gate
from helpers.checkpoints import load_classifier
from helpers.small_runs import image_folder, image_rows, small_recipe
from helpers.tiny import tiny_image_checkpoint
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_finetune import Distill, ImageData, Launch, Model, Recipe, Train
from hf_finetune.augmentation.image.geometry import Flip
from hf_finetune.cli import main
from hf_finetune.data.image_decoding import decode
from hf_finetune.distillation.config import Embedding, HardLabel, SoftTargets
from hf_finetune.distillation.predictions import predict_rows
from hf_finetune.distillation.teachers.loading import Teachers
from hf_finetune.errors import InputError
from hf_finetune.evaluation.metrics import softmax
from hf_finetune.inference.scoring import probabilities
from hf_finetune.pipeline import run as pipeline
from hf_finetune.tasks.single_label import SingleLabel
from hf_finetune.tasks.trained_model import load_trained

pytestmark = pytest.mark.usefixtures("gate_here")
PICTURES = 40
TWO_HEADS = "DeiTForImageClassificationWithTeacher"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A tiny ViT of 40 dark and bright images, one epoch of four steps."""
    folder = tmp_path_factory.mktemp("pictures")
    return dataclasses.replace(
        small_recipe(folder),
        data=ImageData(path=str(image_folder(folder / "train", PICTURES))),
        model=Model(checkpoint=str(tiny_image_checkpoint(folder / "vit"))),
        train=Train(num_train_epochs=1.0, per_device_train_batch_size=8, learning_rate=1e-3, logging_steps=1),
    )


@pytest.fixture(scope="module")
def flipped_teacher(pictures: Recipe, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A good classifier with its classes' names exchanged: it calls every dark image bright, and the other way
    round."""
    folder = tmp_path_factory.mktemp("teachers")
    with pytest.MonkeyPatch.context() as patch:  # `gate_here` comes after fixtures of a module
        gate.run_here(patch.setattr)
        run(dataclasses.replace(pictures, method="head"), folder / "run")
    # Within the run it would be refused: it is not what the run wrote.
    teacher = Path(shutil.copytree(folder / "run" / "model", folder / "flipped"))
    path, names = teacher / "config.json", {"0": "dark", "1": "bright"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id2label": names}))
    return str(teacher)


def run(recipe: Recipe, folder: Path) -> dict[str, Any]:
    result = pipeline.run(recipe, Launch(str(folder)))
    assert result is not None and all(check["ok"] for check in result["parity"].values())
    return result


def of_deit(recipe: Recipe, folder: Path, **model: Any) -> Recipe:
    checkpoint = str(tiny_image_checkpoint(folder / "deit", "deit"))
    return dataclasses.replace(recipe, model=Model(checkpoint=checkpoint, **model))


def answers_of_heads(folder: Path) -> dict[str, np.ndarray]:
    """Classes of all images by each head of a saved model, as plain transformers has it; and by both."""
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    assert type(model).__name__ == TWO_HEADS
    images = [decode(image) for image in image_rows(PICTURES)["image"][:]]
    with torch.no_grad():
        found = model(**AutoImageProcessor.from_pretrained(folder)(images, return_tensors="pt"))
    assert torch.allclose(found.logits, (found.cls_logits + found.distillation_logits) / 2)
    names = np.array([model.config.id2label[i] for i in range(2)])
    return {name: names[found[name].argmax(-1).numpy()] for name in ("cls_logits", "distillation_logits", "logits")} | {
        "probabilities": softmax(found.logits.numpy())
    }


def test_a_deit_learns_the_labels_by_one_token_and_its_teacher_by_the_other(
    pictures: Recipe, flipped_teacher: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a teacher that is always wrong: one head is right then, the other wrong. Stock classes, evaluate and predict
    have it."""
    recipe = dataclasses.replace(
        of_deit(pictures, tmp_path),
        objective=Distill(teacher=flipped_teacher, kinds=(HardLabel(0.5),)),
        train=dataclasses.replace(pictures.train, num_train_epochs=8.0, learning_rate=3e-3, head_warm_start=False),
    )
    result = run(recipe, tmp_path / "run")
    assert result["teacher"]["metrics"]["validation"]["accuracy"]["value"] < 0.3
    assert any("the head of the class token learns the labels" in note for note in result["notes"])
    found = answers_of_heads(tmp_path / "run" / "model")
    right = np.array([("dark", "bright")[label] for label in image_rows(PICTURES)["label"]])
    assert (found["cls_logits"] == right).mean() > 0.9
    assert (found["distillation_logits"] == right).mean() < 0.1
    rows = image_rows(PICTURES)
    ours = probabilities(load_trained(str(tmp_path / "run")), rows)
    assert np.allclose(ours, found["probabilities"], atol=1e-5)
    main.COMMANDS["evaluate"].run([str(tmp_path / "run"), recipe.data.path])
    assert "accuracy" in capsys.readouterr().out

    # And it can teach in its turn, with the mean of its heads.
    teachers = Teachers((str(tmp_path / "run"),), SingleLabel(("dark", "bright")), "image").members
    asked_NC = predict_rows(teachers, {"validation": rows}, budget_gb=1.0).logits["validation"]
    assert np.allclose(softmax(asked_NC), ours[:, list(teachers[0].columns_C)], atol=1e-5)


def test_a_deit_without_a_teacher_is_the_plain_class(pictures: Recipe, flipped_teacher: str, tmp_path: Path) -> None:
    """So it is under an adapter, which is loaded onto that class, with a pooling of the recipe's, and where its
    teacher's logits do not count."""
    recipe = of_deit(pictures, tmp_path)
    taught = dataclasses.replace(recipe, objective=Distill(teacher=flipped_teacher))
    pooled = dataclasses.replace(taught, model=dataclasses.replace(taught.model, pooling="cls"))
    inside = dataclasses.replace(taught.objective, kinds=(SoftTargets(weight=0.0), Embedding()), labels_weight=1.0)
    for name, one in (
        ("alone", recipe),
        ("lora", dataclasses.replace(taught, method="lora")),
        ("pooled", pooled),
        ("inside", dataclasses.replace(taught, objective=inside)),
    ):
        run(one, tmp_path / name)
        config = json.loads((tmp_path / name / "model" / "config.json").read_text())
        assert config["architectures"] == ["DeiTForImageClassification"]


@pytest.mark.parametrize(
    "fields", [{"method": "head"}, {"method": "top"}, {"model": {"from_config": {"hidden_size": 16}}}]
)
def test_both_heads_go_with(pictures: Recipe, flipped_teacher: str, tmp_path: Path, fields: dict[str, Any]) -> None:
    """Methods that keep layers as they are, on cached activations; a network of random weights. Both fitted heads
    differ."""
    model = fields.pop("model", {})
    recipe = dataclasses.replace(
        of_deit(pictures, tmp_path, **model), objective=Distill(teacher=flipped_teacher), **fields
    )
    result = run(recipe, tmp_path / "run")
    assert result["cache"]["used"] == ("method" in fields)
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    heads = [weights[f"{name}.weight"] for name in ("cls_classifier", "distillation_classifier")]
    assert float((heads[0] - heads[1]).abs().max()) > 1e-3


def test_a_class_token_that_would_learn_nothing(pictures: Recipe, flipped_teacher: str, tmp_path: Path) -> None:
    recipe = dataclasses.replace(
        of_deit(pictures, tmp_path), objective=Distill(teacher=flipped_teacher, labels_weight=0.0)
    )
    with pytest.raises(InputError, match=r"^objective.labels_weight: expected a number above 0 for deit, whose class"):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("family", "augment"), [("resnet", ()), ("convnext", (Flip(),))])
def test_a_network_of_convolutions_teaches_a_vit(
    pictures: Recipe, family: str, augment: tuple[Flip, ...], tmp_path: Path
) -> None:
    """A finished run of it: of the rows as they are, and of the views of every epoch."""
    checkpoint = str(tiny_image_checkpoint(tmp_path / family, family))
    run(dataclasses.replace(pictures, model=Model(checkpoint=checkpoint)), tmp_path / "teacher")
    recipe = dataclasses.replace(pictures, data=dataclasses.replace(pictures.data, augment=augment))
    objective = Distill(teacher=str(tmp_path / "teacher"), labels_weight=0.1)
    result = run(dataclasses.replace(recipe, objective=objective), tmp_path / "student")
    run(recipe, tmp_path / "alone")
    assert result["teacher"]["live"] == bool(augment) and result["teacher"]["name"] == "teacher"
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("student", "alone"))
    assert max(float((one[n] - other[n]).abs().max()) for n in one) > 1e-4


def test_born_again(tmp_path: Path) -> None:
    """The teacher is a run of the same recipe; its student begins where it began, and is another network than it."""
    recipe = small_recipe(tmp_path)
    first = run(recipe, tmp_path / "first")
    objective = Distill(teacher=str(tmp_path / "first"), kinds=(SoftTargets(1.0),), labels_weight=0.0)
    again = run(dataclasses.replace(recipe, objective=objective), tmp_path / "again")
    accuracy = again["teacher"]["metrics"]["validation"]["accuracy"]
    assert accuracy == first["metrics"]["validation"]["accuracy"]
    assert again["parameters"] == first["parameters"] and again["checkpoint"] == first["checkpoint"]
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("first", "again"))
    assert max(float((one[n] - other[n]).abs().max()) for n in one) > 1e-4
    small = dataclasses.replace(recipe.model, from_config={"num_hidden_layers": 1})
    result = run(dataclasses.replace(recipe, objective=objective, model=small), tmp_path / "small")
    assert result["teacher"]["metrics"]["validation"]["accuracy"] == accuracy


def test_a_distilled_checkpoint_of_others_is_read(tmp_path: Path) -> None:
    """One that names the class with two heads, as DeiT's own do: evaluated as it is; trained without a teacher,
    plain."""
    folder = tiny_image_checkpoint(tmp_path / "deit", "deit")
    both = load_classifier(str(folder), task="image-classification", labels=("a", "b"), distilled=True)
    assert both.fresh == ("cls_classifier", "distillation_classifier")
    both.model.save_pretrained(folder)
    assert type(load_trained(str(folder)).model).__name__ == TWO_HEADS
    plain = load_classifier(str(folder), task="image-classification", labels=("a", "b"))
    assert type(plain.model).__name__ == "DeiTForImageClassification" and plain.fresh == ("classifier",)
    others = load_classifier(str(folder), task="image-classification", labels=("b", "c"), distilled=True)
    assert others.fresh == ("cls_classifier", "distillation_classifier")
    kept = load_classifier(str(folder), task="image-classification", labels=("a", "b"), distilled=True)
    assert kept.fresh == ()
