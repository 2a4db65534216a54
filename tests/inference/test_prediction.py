import copy
import csv
import dataclasses
import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from helpers.checkpoints import load_classifier, load_tokenizer
from helpers.small_runs import text_rows
from helpers.tiny import tiny_text_checkpoint

from hf_finetune import InputError
from hf_finetune.data.config import SourceSplit
from hf_finetune.data.inputs import TextInputs
from hf_finetune.inference.evaluation import evaluate
from hf_finetune.inference.prediction import predict
from hf_finetune.inference.scoring import Scorer, probabilities
from hf_finetune.tasks.single_label import SingleLabel
from hf_finetune.tasks.trained_model import TrainedModel, quiet_libraries
from hf_finetune.utils.tables import check_output

LABELS = ("a/b", "two\nlines", 'naïve, "x"')


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    quiet_libraries()
    folder = str(tiny_text_checkpoint(tmp_path_factory.mktemp("bert")))
    model = load_classifier(folder, task="text-classification", labels=LABELS, seed=0).model.eval()
    return TrainedModel(model, TextInputs(load_tokenizer(folder, max_length=32, sample=[]), 32), SingleLabel(LABELS))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text("text,other\n" + "".join(f"a good film {i},{i}\n" for i in range(5)))
    return path


def test_file_formats_agree(classifier: TrainedModel, rows: Path) -> None:
    files = [rows.parent / "new" / name for name in ("p.csv", "p.jsonl", "p.parquet", "q.CSV")]
    for file in files:
        assert predict(classifier, SourceSplit(str(rows)), file)["rows"] == 5
    table = pq.read_table(files[2])
    assert table.column_names == ["row", "predicted", *(f"p:{name}" for name in LABELS)]
    assert table["row"].to_pylist() == list(range(5)) and set(table["predicted"].to_pylist()) <= set(LABELS)
    assert [json.loads(line) for line in files[1].read_text().splitlines()] == table.to_pylist()
    with files[0].open(newline="") as file:
        assert [row["predicted"] for row in csv.DictReader(file)] == table["predicted"].to_pylist()
    assert files[3].read_bytes() == files[0].read_bytes()
    predict(classifier, SourceSplit(str(rows)), files[2], digests=True)
    keyed = pq.read_table(files[2])
    assert keyed["digest"].to_pylist() == [sha256(f"a good film {i}".encode()).hexdigest() for i in range(5)]
    assert keyed.drop_columns("digest").equals(table)


def test_bad_rows_leave_nothing_behind(
    classifier: TrainedModel, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows.write_text("text\n" + "good\n" * 2000 + '" "\n')
    with pytest.raises(InputError, match=r"row 2000 \(line 2002\)"):
        predict(classifier, SourceSplit(str(rows)), rows.parent / "new" / "deep" / "p.csv")
    assert list(rows.parent.iterdir()) == [rows]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("p.txt", "--output .*: expected a name ending in .csv, .parquet, .jsonl"),
        ("folder.csv", "--output .*: this is a folder, expected a file"),
        ("rows.csv", "--output .*: these are the rows to label; name another file"),
        ("rows.csv/p.csv", r"--output .*: nothing can be written to .*/rows.csv \(Not a directory\)"),
        ("/proc/new/p.csv", "--output .*: nothing can be written to /proc"),
    ],
)
def test_unusable_outputs(classifier: TrainedModel, rows: Path, output: str, message: str) -> None:
    (rows.parent / "folder.csv").mkdir()
    before = rows.read_bytes()
    with pytest.raises(InputError, match=message):
        predict(classifier, SourceSplit(str(rows)), rows.parent / output)
    assert rows.read_bytes() == before


def test_existing_output_is_replaced(classifier: TrainedModel, rows: Path) -> None:
    output = rows.parent / "p.csv"
    output.write_text("old")
    check_output(output, str(rows))
    predict(classifier, SourceSplit(str(rows)), output)
    assert output.read_text().startswith("row,predicted,")


def test_bfloat16_gives_the_labels_of_float32(
    classifier: TrainedModel, rows: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Several parts of enough rows for bfloat16: labels and order of float32, and a logged difference."""
    monkeypatch.setattr("hf_finetune.inference.parts.PART_ROWS", {"text": 300, "image": 300})
    monkeypatch.setattr("hf_finetune.inference.scoring.has_native_bf16", lambda _: True)
    texts = [row["text"] for row in text_rows(700, seed=5)]
    rows.write_text("text\n" + "".join(f"{text}\n" for text in texts))
    tables = {}
    for precision in ("float32", "auto", "bf16"):
        with caplog.at_level("INFO", "hf_finetune"):
            caplog.clear()
            result = predict(classifier, SourceSplit(str(rows)), rows.parent / "p.parquet", precision=precision)
            assert result["rows"] == 700 and result["throughput"]["predict_rows_per_s"] > 0
        messages = [r.getMessage() for r in caplog.records if "computed in bfloat16" in r.getMessage()]
        assert len(messages) == (precision != "float32")
        tables[precision] = pq.read_table(rows.parent / "p.parquet").to_pandas()
        assert tables[precision]["row"].tolist() == list(range(700))
    assert tables["auto"]["predicted"].tolist() == tables["float32"]["predicted"].tolist()
    for precision in ("auto", "bf16"):
        difference = np.abs(tables[precision].iloc[:, 2:].values - tables["float32"].iloc[:, 2:].values).max()
        assert 0 < difference < 0.1
    reference = probabilities(classifier, Dataset.from_dict({"text": texts}))
    assert np.abs(reference - tables["float32"].iloc[:, 2:].values).max() < 1e-5


def test_the_device_of_the_model_decides_on_bfloat16(classifier: TrainedModel) -> None:
    elsewhere = dataclasses.replace(classifier, model=copy.deepcopy(classifier.model).to("meta"))
    with pytest.raises(InputError, match="--precision bf16: this meta does not support bf16 natively; use float32"):
        Scorer(elsewhere, "bf16")


def test_evaluate_computes_in_float32_by_default(
    classifier: TrainedModel, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [row["text"] for row in text_rows(300, seed=5)]
    rows.write_text("text,label\n" + "".join(f"{text},a/b\n" for text in texts))
    exact = evaluate(classifier, SourceSplit(str(rows)), resamples=100)
    assert exact["precision"] == {"format": "float32"}
    monkeypatch.setattr("hf_finetune.inference.scoring.has_native_bf16", lambda _: True)
    assert evaluate(classifier, SourceSplit(str(rows)), resamples=100)["metrics"] == exact["metrics"]
    half = evaluate(classifier, SourceSplit(str(rows)), resamples=100, precision="bf16")
    assert half["precision"]["rows"] == 300 and half["precision"]["rows_of_label_agreement"] == 256
    assert half["precision"]["label_agreement"] > 0.9
    assert half["metrics"]["log_loss"]["value"] == pytest.approx(exact["metrics"]["log_loss"]["value"], rel=0.05)
    monkeypatch.setattr("hf_finetune.inference.scoring.has_native_bf16", lambda _: False)
    with pytest.raises(InputError, match=r"--precision bf16: .* use float32"):
        evaluate(classifier, SourceSplit(str(rows)), precision="bf16")
    predict(classifier, SourceSplit(str(rows)), rows.parent / "p.parquet")
    predicted = pq.read_table(rows.parent / "p.parquet").to_pandas().iloc[:, 2:].values
    assert np.abs(predicted - probabilities(classifier, Dataset.from_dict({"text": texts}))).max() < 1e-6


def test_empty_batches_are_refused(classifier: TrainedModel, rows: Path) -> None:
    with pytest.raises(InputError, match="--batch-size 0: expected at least 1"):
        predict(classifier, SourceSplit(str(rows)), rows.parent / "p.csv", batch_size=0)
    with pytest.raises(InputError, match="--batch-size 0: expected at least 1"):
        evaluate(classifier, SourceSplit(str(rows)), batch_size=0)


@pytest.mark.parametrize(
    ("pairs", "header", "warned"), [(True, "text", True), (True, "text,text_pair", False), (False, "text", False)]
)
def test_single_texts_for_a_model_of_pairs_warn(
    classifier: TrainedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture, pairs: bool, header: str, warned: bool
) -> None:
    (tmp_path / "rows.csv").write_text(f"{header}\n" + "good,bad\n"[: 9 if "pair" in header else 4] + "\n")
    predict(dataclasses.replace(classifier, pairs=pairs), SourceSplit(str(tmp_path / "rows.csv")), tmp_path / "p.csv")
    assert [("got single texts" in r.message) for r in caplog.records if r.levelname == "WARNING"] == [True] * warned
