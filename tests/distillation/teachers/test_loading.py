"""Teachers predict through their own tokenizer or processor, once, by class names; and the report on them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.checkpoints import load_classifier
from helpers.small_runs import image_rows, text_rows
from helpers.tiny import tiny_image_checkpoint, tiny_text_checkpoint
from safetensors.torch import load_file, save_file
from scipy.special import logit
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    ViTImageProcessor,
)

from hf_finetune.augmentation.augmenter import Augmenter, population_of
from hf_finetune.augmentation.image.geometry import Flip
from hf_finetune.augmentation.online import AugmentedRows
from hf_finetune.data.image_decoding import decode
from hf_finetune.data.inputs import ImageInputs
from hf_finetune.distillation import report
from hf_finetune.distillation.predictions import OnlinePredictions, TeacherPredictions, mean_logits, predict_rows
from hf_finetune.distillation.teachers import network as network_teacher
from hf_finetune.distillation.teachers.loading import Teachers
from hf_finetune.errors import InputError
from hf_finetune.tasks.multi_label import MultiLabel
from hf_finetune.tasks.regression import Regression
from hf_finetune.tasks.single_label import SingleLabel
from hf_finetune.training.precision import settings_restored


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a cache of its own."""
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def classifier(folder: Path, family: str, labels: tuple[str, ...], *, seed: int = 0) -> Path:
    """Build a classifier with a random head; for texts it reads 8 tokens of each."""
    task = "image-classification" if family == "vit" else "text-classification"
    make = tiny_image_checkpoint if family == "vit" else tiny_text_checkpoint
    checkpoint = make(folder / f"{family}-{seed}", family)
    load_classifier(str(checkpoint), task=task, labels=labels, seed=seed).model.save_pretrained(checkpoint)
    if family != "vit":
        config = checkpoint / "tokenizer_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"model_max_length": 8}))
    return checkpoint


def predict(checkpoint: Path, rows: Dataset, kind: str = "text", *, budget_gb: float = 1.0) -> TeacherPredictions:
    teachers = Teachers((str(checkpoint),), SingleLabel(("bad", "good")), kind)
    return predict_rows(teachers.members, {"validation": rows}, budget_gb=budget_gb)


def test_predictions_use_its_tokenizer_and_the_datas_order_of_classes(tmp_path: Path) -> None:
    """As in plain transformers, row by row, with up to 8 of RoBERTa's tokens; its classes are in reverse order."""
    checkpoint, rows = classifier(tmp_path, "roberta", ("good", "bad")), text_rows(12)
    actual = predict(checkpoint, rows).logits["validation"]
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    with torch.no_grad():
        expected = torch.cat(
            [model(**tokenizer(text, truncation=True, return_tensors="pt")).logits for text in rows["text"][:]]
        ).numpy()
    assert max(map(len, tokenizer(rows["text"][:], truncation=True)["input_ids"])) == 8
    assert np.allclose(actual, expected[:, ::-1], atol=1e-5) and not np.allclose(actual, expected, atol=1e-2)


def test_images_go_through_its_own_processor(tmp_path: Path) -> None:
    checkpoint, rows = classifier(tmp_path, "vit", ("bad", "good")), image_rows(6)
    processor = AutoImageProcessor.from_pretrained(checkpoint)
    model = AutoModelForImageClassification.from_pretrained(checkpoint).eval()
    with torch.no_grad():
        expected = model(**processor([decode(i) for i in rows["image"][:]], return_tensors="pt")).logits
    first, second = predict(checkpoint, rows, "image"), predict(checkpoint, rows, "image")
    assert np.allclose(first.logits["validation"], expected.numpy(), atol=1e-5)
    assert not first.cached and second.cached
    assert not predict(checkpoint, image_rows(6, seed=1), "image").cached


def test_predictions_are_cached(tmp_path: Path, own_cache: Path) -> None:
    """The cache is exact, a damaged entry is computed again, and other rows or weights have an entry of their own."""
    checkpoint, rows = classifier(tmp_path, "bert", ("good", "bad")), text_rows(12)
    first = predict(checkpoint, rows)
    second = predict(checkpoint, rows)
    assert (first.cached, second.cached) == (False, True)
    assert np.array_equal(first.logits["validation"], second.logits["validation"]) and first.weights == second.weights
    (file,) = own_cache.glob("teacher/*/00000.npy")
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\0")
    third = predict(checkpoint, rows)
    assert not third.cached and np.array_equal(first.logits["validation"], third.logits["validation"])
    assert not predict(checkpoint, text_rows(12, seed=1)).cached
    other = predict(classifier(tmp_path, "bert", ("good", "bad"), seed=1), rows)
    assert not other.cached and other.weights != first.weights
    assert len(list(own_cache.glob("teacher/*"))) == 3


def test_predictions_are_the_same_without_room(tmp_path: Path, own_cache: Path) -> None:
    checkpoint, rows = classifier(tmp_path, "bert", ("good", "bad")), text_rows(12)
    uncached = [predict(checkpoint, rows, budget_gb=1e-9) for _ in range(2)]
    assert not any(predictions.cached for predictions in uncached) and not list(own_cache.glob("teacher/*"))
    assert np.array_equal(uncached[1].logits["validation"], predict(checkpoint, rows).logits["validation"])


def test_predictions_that_are_not_finite_are_refused_and_not_cached(tmp_path: Path, own_cache: Path) -> None:
    """A damaged weight may affect only some rows."""
    checkpoint, rows = classifier(tmp_path, "bert", ("good", "bad")), text_rows(12)
    weights = load_file(checkpoint / "model.safetensors")
    rare = AutoTokenizer.from_pretrained(checkpoint)(rows["text"][7])["input_ids"][1]
    weights["bert.embeddings.word_embeddings.weight"][rare] = torch.nan
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    message = r"^objective.teacher: .*bert-0: its prediction of row \d+ counted from 0 of validation is not finite \(nan, nan\); its weights may be damaged"
    with pytest.raises(InputError, match=message):
        predict(checkpoint, rows)
    assert not list(own_cache.glob("teacher/*/*.npy"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            ("bad", "fine"),
            "expected a classifier of the data's 2 classes, got .*, which lacks 'good' and has 'fine' besides",
        ),
        (("bad", "good", "mixed"), "which has 'mixed' besides; train one on these classes, or "),
    ],
)
def test_other_classes_are_refused(tmp_path: Path, labels: tuple[str, ...], message: str) -> None:
    checkpoint = classifier(tmp_path, "bert", labels)
    with pytest.raises(InputError, match=rf"^objective.teacher: .*{message}"):
        predict(checkpoint, text_rows(4))


@pytest.mark.parametrize("names", [{"bad": "bad", "good": "good"}, {"1": "bad", "2": "good"}, ["bad", "good"]])
def test_classes_that_are_not_numbered_from_0_are_refused(tmp_path: Path, names: dict[str, str] | list[str]) -> None:
    checkpoint = classifier(tmp_path, "bert", ("bad", "good"))
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id2label": names}))
    with pytest.raises(InputError, match=r"^objective.teacher: .*numbers its classes .* in id2label; expected 0 to 1"):
        predict(checkpoint, text_rows(4))


def test_other_models_than_classifiers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^objective.teacher: .*is not a trained classifier"):
        predict(tiny_text_checkpoint(tmp_path / "bert"), text_rows(4))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(
        InputError, match=r"^objective.teacher: .*adapter: a PEFT adapter, .*merge it into its base model"
    ):
        predict(tmp_path / "adapter", text_rows(4))
    with pytest.raises(InputError, match=r"^objective.teacher: .*nowhere: no such folder"):
        predict(tmp_path / "nowhere", text_rows(4))
    multi_label = classifier(tmp_path, "electra", ("bad", "good"))
    config = json.loads((multi_label / "config.json").read_text()) | {"problem_type": "multi_label_classification"}
    (multi_label / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        InputError,
        match=r"^objective.teacher: expected a model for single-label, as the data are, got .*, which is for multi-label",
    ):
        predict(multi_label, text_rows(4))
    with pytest.raises(InputError, match=r"expected a classifier of images, got .*, which reads texts"):
        predict(classifier(tmp_path, "bert", ("bad", "good")), image_rows(4), "image")


def test_half_precision(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 predicts the classes of float32, has a cache entry of its own, and is refused where it would be emulated."""
    checkpoint, rows = classifier(tmp_path, "bert", ("good", "bad")), text_rows(200)
    exact = predict(checkpoint, rows).logits["validation"]
    half = Teachers((str(checkpoint),), SingleLabel(("bad", "good")), "text", precision="bf16")
    monkeypatch.setattr("hf_finetune.distillation.teachers.loading.has_native_bf16", lambda _: True)
    actual = predict_rows(half.members, {"validation": rows}, budget_gb=1.0)
    half.release()
    assert not actual.cached and len(list(own_cache.glob("teacher/*"))) == 2
    difference = np.abs(actual.logits["validation"] - exact).max()
    assert 0 < difference < 0.05 and np.array_equal(actual.logits["validation"].argmax(-1), exact.argmax(-1))
    monkeypatch.setattr("hf_finetune.distillation.teachers.loading.has_native_bf16", lambda _: False)
    with pytest.raises(InputError, match=r"^objective.teacher_precision: expected float32 on this cpu, which does not"):
        _ = half.members


def test_several_teachers_predict_the_mean_of_their_probabilities(tmp_path: Path, own_cache: Path) -> None:
    """Each in the order of the data's classes, and each cached by itself, for other groups of teachers."""
    one, other = (
        classifier(tmp_path, family, labels)
        for family, labels in (("bert", ("bad", "good")), ("roberta", ("good", "bad")))
    )
    rows, splits = text_rows(12), {"validation": text_rows(12)}
    teachers = Teachers((str(one), str(other)), SingleLabel(("bad", "good")), "text").members
    single = [predict(checkpoint, rows).logits["validation"] for checkpoint in (one, other)]
    assert len(list(own_cache.glob("teacher/*"))) == 2
    both = predict_rows(teachers, splits, budget_gb=1.0)
    assert both.cached and len(list(own_cache.glob("teacher/*"))) == 2
    expected = sum(torch.from_numpy(logits).softmax(-1) for logits in single) / 2
    assert np.allclose(np.exp(both.logits["validation"]), expected.numpy(), atol=1e-6)
    assert both.names == (str(one), str(other)) and [m.weights for m in both.members] == [t.weights for t in teachers]
    assert both.weights not in {t.weights for t in teachers}
    swapped = predict_rows(teachers[::-1], splits, budget_gb=1.0)
    assert np.allclose(swapped.logits["validation"], both.logits["validation"], atol=1e-6)
    views = AugmentedRows(rows, teachers[0].classifier.inputs, Augmenter((), 0, population_of(rows, ("bad", "good"))))
    online = OnlinePredictions(teachers, 1.0)(views)
    assert np.allclose(online[np.arange(12)], both.logits["validation"], atol=1e-5)


def test_views_of_images_are_predicted_in_each_epoch(tmp_path: Path, own_cache: Path) -> None:
    """By the teacher's own processor, cached by epoch and operation."""
    checkpoint, rows = classifier(tmp_path, "vit", ("bad", "good")), image_rows(8)
    (teacher,) = Teachers((str(checkpoint),), SingleLabel(("bad", "good")), "image").members
    own = ImageInputs(ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.1] * 3, image_std=[0.3] * 3))
    views = AugmentedRows(rows, own, Augmenter((Flip(),), 0, population_of(rows, ("bad", "good"))))
    online, actual = OnlinePredictions((teacher,), 1.0), []
    for epoch in (0, 1, 0):
        views.set_epoch(epoch)
        actual.append(online(views)[np.arange(8)])
        pixels = teacher.classifier.inputs.collate({"pixels": views.views(range(8))["pixels"]})
        with torch.no_grad():
            expected = teacher.classifier.model(**pixels).logits.numpy()
        assert np.allclose(actual[-1], expected, atol=1e-5)
        assert len(list(own_cache.glob("teacher/*"))) == min(len(actual), 2)
    assert np.array_equal(actual[0], actual[2]) and not np.allclose(actual[0], actual[1], atol=1e-3)
    assert online.timer.seconds > 0


def test_mean_of_teachers_by_hand() -> None:
    """1/4 and 3/4 have the mean 1/2, whatever is added to the logits; a class impossible for all stays finite."""
    one, other = np.log([[0.25, 0.75]]) + 5, np.log([[0.75, 0.25]])
    assert np.allclose(mean_logits([one, other]), np.log([[0.5, 0.5]]))
    assert np.isfinite(mean_logits([np.array([[0.0, -2000.0]])] * 2)).all()


TASK = SingleLabel(("bad", "good"))


def test_means_of_tags_and_numbers_by_hand() -> None:
    """Probabilities 1/4 and 3/4 of a tag: 1/2; a certain one stays finite."""
    one, other = np.array([[-np.log(3), 2000.0]]), np.array([[np.log(3), 2000.0]])
    half, certain = mean_logits([one, other], "sigmoid")[0]
    assert half == pytest.approx(0, abs=1e-6) and np.isfinite(certain) and certain > 100
    assert mean_logits([np.array([[1.0]]), np.array([[4.0]])], "identity").tolist() == [[2.5]]


def test_report_on_tags_and_numbers_by_hand() -> None:
    """The teacher's thresholds are its own: its tags are right at a probability of 0.2."""
    tags = {name: Dataset.from_dict({"label": [[1, 0], [0, 1]]}) for name in ("train", "validation")}
    right, wrong = np.array([[0.2, 0.1], [0.1, 0.2]]), np.array([[0.1, 0.9], [0.1, 0.9]])
    task = MultiLabel(("a", "b"))
    teacher = TeacherPredictions(("big",), "hash", {"validation": logit(right)}, cached=True)
    actual = report.summarize(task, teacher, tags, {"validation": wrong}, resamples=100)
    assert actual["metrics"]["validation"]["micro_f1"]["value"] == 1.0 and actual["notes"] == []
    # Of four decisions two agree; the student has one tag right of two, and one too many.
    assert (actual["agreement"], actual["retention"]) == (0.5, 0.5)
    assert actual["difference"]["metric"] == "micro_f1" and actual["difference"]["value"] < 0

    numbers = {name: Dataset.from_dict({"label": [[0.0], [2.0], [4.0]]}) for name in ("train", "validation")}
    down, up = np.array([[3.0], [2.0], [1.0]]), np.array([[0.0], [2.0], [4.0]])
    flat = TeacherPredictions(("big",), "hash", {"validation": down}, cached=True)
    actual = report.summarize(Regression(("x",)), flat, numbers, {"validation": up}, resamples=100)
    below, worse = actual["notes"]
    assert below.startswith("the teacher's r2 on the validation rows, -1.250, is not above that of the mean, 0.000")
    assert worse.startswith("the teacher's r2 on the validation rows, -1.250, is below that of its student, 1.000")
    assert actual["agreement"] == pytest.approx(-1) and actual["retention"] is None


def logits_of(*classes: int) -> np.ndarray:
    return np.eye(2, dtype=np.float32)[list(classes)]


def test_report_by_hand() -> None:
    """Of four test rows the student predicts three correctly, the teacher four; on validation rows the teacher is worse
    than the majority class."""
    splits = {
        "train": Dataset.from_dict({"label": [0, 0, 1]}),
        "validation": Dataset.from_dict({"label": [0, 0, 0, 1]}),
        "test": Dataset.from_dict({"label": [0, 0, 1, 1]}),
    }
    predictions = TeacherPredictions(
        ("big",), "hash", {"validation": logits_of(1, 0, 0, 0), "test": logits_of(0, 0, 1, 1)}, cached=True
    )
    student = {"validation": logits_of(0, 0, 0, 0), "test": logits_of(0, 0, 1, 0)}
    actual = report.summarize(TASK, predictions, splits, student, resamples=100)
    assert actual["metrics"]["validation"]["accuracy"]["value"] == 0.5
    assert actual["metrics"]["test"]["accuracy"]["value"] == 1.0
    assert (actual["difference"]["value"], actual["retention"], actual["agreement"]) == (-0.25, 0.75, 0.75)
    below, worse = actual["notes"]
    assert below.startswith(
        "the teacher's accuracy on the validation rows, 0.500, is not above that of the most frequent"
    )
    assert worse.startswith("the teacher's accuracy on the validation rows, 0.500, is below that of its student, 0.750")
    good = TeacherPredictions(("big",), "hash", predictions.logits | {"validation": logits_of(0, 0, 0, 1)}, cached=True)
    assert report.summarize(TASK, good, splits, student, resamples=100)["notes"] == []
    alike = splits | {"validation": Dataset.from_dict({"label": [0, 0, 0, 0]})}
    perfect = dataclasses.replace(predictions, logits=predictions.logits | {"validation": logits_of(0, 0, 0, 0)})
    assert report.doubts(TASK, perfect, alike) == [], "rows of one class say nothing"
    assert actual["members"] is None
    pair = dataclasses.replace(predictions, names=("a/big", "good"), members=(predictions, good))
    named = report.summarize(TASK, pair, splits, student, resamples=100, public_name=lambda name: name[-3:])
    assert named["name"] == "big + ood"
    assert [m["accuracy"] for m in named["members"]] == [{"validation": v, "test": 1.0} for v in (0.5, 1.0)]


def test_predictions_are_computed_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the precision of the student's matrix products during training."""
    precisions, predict_logits = [], network_teacher.predict_logits

    def recorded(*args: Any, **fields: Any) -> np.ndarray:
        precisions.append(torch.get_float32_matmul_precision())
        return predict_logits(*args, **fields)

    monkeypatch.setattr(network_teacher, "predict_logits", recorded)
    with settings_restored():
        torch.set_float32_matmul_precision("medium")
        predict(classifier(tmp_path, "bert", ("bad", "good")), text_rows(4))
        assert precisions == ["highest"] and torch.get_float32_matmul_precision() == "medium"
