"""`evaluate` and `predict` with several views of every row."""

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from helpers.checkpoints import load_classifier, load_image_processor, load_tokenizer
from helpers.small_runs import image_rows, small_recipe, text_rows
from helpers.tiny import tiny_image_checkpoint, tiny_text_checkpoint
from PIL import Image, ImageOps

from hf_finetune import ImageData, InputError, Launch, Model
from hf_finetune.augmentation.compose import OneOf
from hf_finetune.augmentation.image.geometry import Flip
from hf_finetune.augmentation.operations import TextBatch, generators
from hf_finetune.augmentation.test_time import SeveralViews
from hf_finetune.augmentation.text.words import SwapWords
from hf_finetune.cli.classify import parse_views
from hf_finetune.cli.evaluate import EvaluateJob
from hf_finetune.cli.main import main_command
from hf_finetune.cli.parsing import parse
from hf_finetune.cli.predict import PredictJob
from hf_finetune.data.config import SourceSplit
from hf_finetune.data.inputs import ImageInputs, TextInputs
from hf_finetune.inference.evaluation import evaluate
from hf_finetune.inference.prediction import predict
from hf_finetune.inference.scoring import probabilities
from hf_finetune.pipeline import run as pipeline
from hf_finetune.tasks.single_label import SingleLabel
from hf_finetune.tasks.trained_model import TrainedModel, quiet_libraries

LABELS = ("bad", "good")
SWAPS = SeveralViews((SwapWords(0.5),), 3, seed=7)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    quiet_libraries()
    folder = str(tiny_text_checkpoint(tmp_path_factory.mktemp("bert")))
    model = load_classifier(folder, task="text-classification", labels=LABELS, seed=0).model.eval()
    classifier = TrainedModel(
        model, TextInputs(load_tokenizer(folder, max_length=32, sample=[]), 32), SingleLabel(LABELS)
    )
    # A head of random weights calls all texts the same; between the two classes it hesitates, and views decide.
    bad, good = probabilities(classifier, text_rows(60, seed=3)).T
    with torch.no_grad():
        model.classifier.bias[0] += np.median(np.log(good / bad))
    return classifier


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    quiet_libraries()
    folder = str(tiny_image_checkpoint(tmp_path_factory.mktemp("vit")))
    model = load_classifier(folder, task="image-classification", labels=LABELS, seed=0).model.eval()
    return TrainedModel(model, ImageInputs(load_image_processor(folder)), SingleLabel(LABELS))


@pytest.fixture
def source(tmp_path: Path) -> SourceSplit:
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["text", "label"])
        lines.writerows((row["text"], LABELS[row["label"]]) for row in text_rows(60, seed=3))
    return SourceSplit(str(tmp_path / "rows.csv"))


@pytest.fixture
def album(tmp_path: Path) -> SourceSplit:
    rows = image_rows(10, seed=3).cast_column("image", datasets.Image(decode=False))
    rows = rows.map(lambda row: {"label": LABELS[row["label"]]}, features=None).remove_columns("row")
    rows.to_parquet(str(tmp_path / "rows.parquet"))
    return SourceSplit(str(tmp_path / "rows.parquet"))


def table(classifier: TrainedModel, source: SourceSplit, **options) -> np.ndarray:
    """Probabilities (N, C) that `predict` writes."""
    output = Path(source.path).with_name("p.parquet")
    predict(classifier, source, output, **options)
    found = pq.read_table(output).to_pandas()
    assert found["row"].tolist() == list(range(len(found)))
    assert found["predicted"].tolist() == [LABELS[i] for i in found.iloc[:, 2:].values.argmax(-1)]
    return found.iloc[:, 2:].values


def test_texts_get_the_mean_over_their_views(texts: TrainedModel, source: SourceSplit) -> None:
    rows = text_rows(60, seed=3)["text"][:]
    seen = [rows] + [SwapWords(0.5)(TextBatch(rows), generators(7, range(60), 0, view)).texts for view in (1, 2)]
    each = [probabilities(texts, Dataset.from_dict({"text": view})) for view in seen]
    assert np.abs(each[1] - each[0]).max() > 1e-3 < np.abs(each[2] - each[1]).max()
    assert np.abs(table(texts, source, views=SWAPS) - (each[0] + each[1] + each[2]) / 3).max() < 1e-6


def test_images_get_the_mean_with_their_mirror(pictures: TrainedModel, album: SourceSplit) -> None:
    rows = image_rows(10, seed=3)

    def mirrored(picture: dict) -> dict:
        file = io.BytesIO()
        ImageOps.mirror(Image.open(io.BytesIO(picture["bytes"]))).save(file, "PNG")
        return {"bytes": file.getvalue(), "path": None}

    mirror = Dataset.from_dict({"image": [mirrored(picture) for picture in rows["image"]]})
    plain, other = probabilities(pictures, rows), probabilities(pictures, mirror)
    assert np.abs(plain - other).max() > 1e-3
    found = table(pictures, album, views=SeveralViews((Flip(1.0),), 2))
    assert np.abs(found - (plain + other) / 2).max() < 1e-6


@pytest.mark.parametrize("what", ["texts", "pictures"])
def test_neither_batches_nor_parts_nor_the_run_make_a_difference(
    what: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = request.getfixturevalue(what)
    rows = request.getfixturevalue("source" if what == "texts" else "album")
    operation = SwapWords(0.5) if what == "texts" else Flip(0.5)
    views = SeveralViews((operation,), 4)
    first = table(classifier, rows, views=views)
    assert np.array_equal(table(classifier, rows, views=views), first)
    assert np.abs(table(classifier, rows, views=replace(views, seed=1)) - first).max() > 1e-4
    for part, batch_size in ((512, 1), (7, None), (7, 3)):
        monkeypatch.setattr("hf_finetune.inference.parts.PART_ROWS", {"text": part, "image": part})
        assert np.abs(table(classifier, rows, views=views, batch_size=batch_size) - first).max() < 1e-6


def test_operations_that_change_nothing_change_nothing(texts: TrainedModel, source: SourceSplit) -> None:
    plain = evaluate(texts, source, resamples=100)
    seen = evaluate(texts, source, resamples=100, views=SeveralViews((SwapWords(0.0),), 2))
    assert "views" not in plain and seen["metrics"] == plain["metrics"] == seen["views"]["without"]
    assert seen["views"]["difference"]["value"] == 0.0


def test_every_format_has_the_same_rows(texts: TrainedModel, source: SourceSplit) -> None:
    files = [Path(source.path).with_name(name) for name in ("p.csv", "p.jsonl", "p.parquet")]
    for file in files:
        assert predict(texts, source, file, views=SWAPS)["rows"] == 60
    rows = pq.read_table(files[2]).to_pylist()
    assert list(rows[0]) == ["row", "predicted", "p:bad", "p:good"]
    assert [json.loads(line) for line in files[1].read_text().splitlines()] == rows
    with files[0].open(newline="") as file:
        assert [(int(row["row"]), row["predicted"]) for row in csv.DictReader(file)] == [
            (row["row"], row["predicted"]) for row in rows
        ]


def test_auto_is_float32_with_views(
    texts: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("hf_finetune.inference.scoring.has_native_bf16", lambda _: True)
    path = tmp_path / "rows.csv"
    path.write_text("text\n" + "".join(f"{row['text']}\n" for row in text_rows(300, seed=5)))
    exact = table(texts, SourceSplit(str(path)), views=SWAPS, precision="float32")
    with caplog.at_level("INFO", "hf_finetune"):
        assert np.array_equal(table(texts, SourceSplit(str(path)), views=SWAPS), exact)
        assert "computed in bfloat16" not in caplog.text
        half = table(texts, SourceSplit(str(path)), views=SWAPS, precision="bf16")
    assert 0 < np.abs(half - exact).max() < 0.1
    assert caplog.text.count("computed in bfloat16") == 1


def test_labels_that_change_are_counted(
    texts: TrainedModel, source: SourceSplit, caplog: pytest.LogCaptureFixture
) -> None:
    other = (table(texts, source).argmax(-1) != table(texts, source, views=SWAPS).argmax(-1)).sum()
    assert 0 < other < 60
    with caplog.at_level("INFO", "hf_finetune"):
        caplog.clear()
        table(texts, source, views=SWAPS)
    said = [r.getMessage() for r in caplog.records if "views" in r.getMessage()]
    assert len(said) == 1
    assert re.fullmatch(
        rf"3 views: {other} of 60 labels are not those of the unchanged rows; \d+\.\d times the seconds", said[0]
    )


def test_a_result_with_views(texts: TrainedModel, source: SourceSplit) -> None:
    found = evaluate(texts, source, resamples=100, views=SWAPS)
    assert found.keys() == {
        *("rows", "metrics", "per_class", "per_target", "doubts", "dropped", "rows_trained_on", "throughput"),
        *("precision", "views"),
    }
    assert found["rows"] == 60 and found["precision"] == {"format": "float32"}
    views = found["views"]
    assert views.keys() == {"number", "augment", "seed", "without", "difference", "cost"}
    assert {name: views[name] for name in ("number", "augment", "seed")} == SWAPS.to_dict()
    assert views["without"] == evaluate(texts, source, resamples=100)["metrics"]
    assert views["difference"].keys() == {"value", "low", "high", "n", "verdict", "metric"}
    accuracy, without = found["metrics"]["accuracy"]["value"], views["without"]["accuracy"]["value"]
    assert views["difference"]["value"] == pytest.approx(accuracy - without) and views["difference"]["n"] == 60
    right = table(texts, source, views=SWAPS).argmax(-1) == text_rows(60, seed=3)["label"][:]
    assert accuracy == pytest.approx(right.mean())
    assert views["cost"] > 1
    json.dumps(found, allow_nan=False)


def test_what_the_classifier_cannot_read_is_refused(
    texts: TrainedModel, pictures: TrainedModel, source: SourceSplit
) -> None:
    with pytest.raises(InputError, match=r"^--augment: Flip is not for texts"):
        evaluate(texts, source, views=SeveralViews((Flip(),), 2))
    with pytest.raises(InputError, match=r"^--augment: SwapWords is not for images"):
        predict(pictures, source, Path(source.path).with_name("p.csv"), views=SWAPS)
    assert not Path(source.path).with_name("p.csv").exists()


@pytest.mark.parametrize("command", ["evaluate", "predict"])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--views", "4"], "--views 4: expected --augment"),
        (["--augment", "[Flip]"], r"--augment \[Flip\]: expected --views N"),
        (["--augment", "[Flip]", "--views", "1"], "--views 1: expected at least 2"),
        (["--augment", "[Flip]", "--views", "2", "--seed", "-1"], "--seed -1: expected at least 0"),
        (["--augment", "[]", "--views", "2"], r"--augment \[\]: expected at least one operation"),
        (["--augment", "[Flop]", "--views", "2"], r"--augment\[0\].type: expected one of .*SwapWords.*, got 'Flop'"),
        (["--augment", "[{type: Flip, p: 2}]", "--views", "2"], r"--augment\[0\].p: expected 0 to 1, got 2"),
        (["--augment", "[{type: Flip, q: 2}]", "--views", "2"], r"--augment\[0\].q: no such field; .*p"),
        (["--augment", "[Flip", "--views", "2"], "--augment: .*expected"),
        (["--augment", "[{type: Sometimes, operation: Flip, by_class: rare}]", "--views", "2"], "--augment: Sometimes"),
        (
            ["--augment", "[{type: SubstituteByModel, checkpoint: c}]", "--views", "2"],
            "--augment: SubstituteByModel",
        ),
        (["--augment", "Flip", "--views", "2"], "--augment: expected a list .* got 'Flip'"),
    ],
)
def test_bad_usage_is_one_line(
    command: str, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main_command([command, "no-such-model", "no-such-data.csv", *flags])
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "") and re.match(message, err) and err.count("\n") == 1, err


def test_views_come_from_the_flags() -> None:
    given = ["m", "d.csv", "--augment", "[Flip, {type: OneOf, choices: [SwapWords]}]", "--views", "3", "--seed", "5"]
    found = parse_views(parse(EvaluateJob, given, "x"))
    assert found == SeveralViews((Flip(), OneOf((SwapWords(),))), 3, 5)
    assert parse_views(parse(PredictJob, ["m", "d.csv"], "x")) is None


@pytest.mark.usefixtures("gate_here")
def test_a_run_of_texts_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, run = small_recipe(tmp_path), str(tmp_path / "run")
    pipeline.run(recipe, Launch(output=run))
    capsys.readouterr()
    flags = ["--augment", "[{type: SwapWords, p: 0.5}]", "--views", "3"]
    main_command(["evaluate", run, recipe.data.path, "--json"])
    plain = json.loads(capsys.readouterr().out)
    main_command(["evaluate", run, recipe.data.path, *flags, "--json"])
    seen = json.loads(capsys.readouterr().out)
    assert seen["rows"] == 60 and seen["views"]["without"] == plain["metrics"]
    assert seen["views"]["number"] == 3 and "views" not in plain

    main_command(["evaluate", run, recipe.data.path, *flags])
    printed = capsys.readouterr().out
    last = next(line for line in printed.splitlines() if " minus " in line)
    assert re.search("^class ", printed, re.MULTILINE)
    accuracy = {
        name: f"{seen_or_not['accuracy']['value']:.3f}"
        for name, seen_or_not in (("with", seen["metrics"]), ("without", plain["metrics"]))
    }
    assert printed.split("\n")[0].split() == ["run,", "3", "views", "run"]
    assert re.search(rf"^accuracy +{accuracy['with']} \[.*?\] +{accuracy['without']} \[", printed, re.MULTILINE)
    assert last.startswith("accuracy with 3 views minus that of the unchanged rows: ")
    assert f", {seen['views']['difference']['verdict']}; " in last and last.endswith(" times the seconds")

    main_command(["predict", run, recipe.data.path, *flags, "--output", str(tmp_path / "p.csv")])
    out, err = capsys.readouterr()
    assert out == f"60 rows -> {tmp_path / 'p.csv'}\n"
    assert re.search(r"^3 views: \d+ of 60 labels are not those of the unchanged rows; ", err, re.MULTILINE)

    with pytest.raises(SystemExit):
        main_command(["predict", run, recipe.data.path, "--augment", "[Flip]", "--views", "2"])
    assert capsys.readouterr().err.startswith("--augment: Flip is not for texts; expected one of ")


@pytest.mark.usefixtures("gate_here")
def test_a_run_of_images_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for row in image_rows(40):
        path = tmp_path / "data" / ("dark", "light")[row["label"]] / f"{row['row']}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row["image"]["bytes"])
    model = Model(checkpoint=str(tiny_image_checkpoint(tmp_path / "vit")))
    recipe = replace(small_recipe(tmp_path), data=ImageData(path=str(tmp_path / "data")), model=model)
    pipeline.run(recipe, Launch(output=str(tmp_path / "run")))
    capsys.readouterr()
    command = ["evaluate", str(tmp_path / "run"), str(tmp_path / "data"), "--json"]
    main_command(command)
    plain = json.loads(capsys.readouterr().out)
    main_command([*command, "--augment", "[{type: Flip, p: 1.0}]", "--views", "2", "--batch-size", "7"])
    seen = json.loads(capsys.readouterr().out)
    assert seen["rows"] == plain["rows"] == 40
    values = {name: cell["value"] for name, cell in plain["metrics"].items()}
    assert {name: cell["value"] for name, cell in seen["views"]["without"].items()} == pytest.approx(values, abs=1e-5)
    assert seen["metrics"]["log_loss"]["value"] != pytest.approx(values["log_loss"], abs=1e-5)
