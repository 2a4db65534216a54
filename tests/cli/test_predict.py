"""`hf-finetune predict` labels texts and images of the command line, and rows of stdin."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.checkpoints import load_classifier, load_image_processor, load_tokenizer
from helpers.tiny import tiny_image_checkpoint, tiny_text_checkpoint
from PIL import Image

from hf_finetune import Classifier, InputError
from hf_finetune.cli.predict import _table, predict
from hf_finetune.inference import parts

LABELS = ("bad", "good")
TEXTS = ["a good film", "bad"]


def saved(folder: Path, *, images: bool = False, words: bool = False) -> str:
    task = "image-classification" if images else "token-classification" if words else "text-classification"
    checkpoint = str((tiny_image_checkpoint if images else tiny_text_checkpoint)(folder / "checkpoint"))
    load_classifier(checkpoint, task=task, labels=LABELS, seed=0).model.save_pretrained(folder / "saved")
    inputs = load_image_processor(checkpoint) if images else load_tokenizer(checkpoint, max_length=32, sample=[])
    inputs.save_pretrained(folder / "saved")
    return str(folder / "saved")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("texts"))


def stdin(monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content.encode()), encoding="utf-8"))


def test_texts_of_the_command_line(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    predict([model, "--text", TEXTS[0], "--text", "long " * 50])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["label", "probability", "input"] and lines[1].endswith(TEXTS[0])
    assert len(lines) == 3 and max(map(len, lines)) == 80


@pytest.mark.parametrize(
    ("content", "flags"),
    [
        ("a good film\nbad\n", []),
        ("a good film\nbad\n", ["-"]),
        ("id,text\n1,a good film\n2,bad\n", ["-", "--format", "csv"]),
        ("review,text\na good film,x\nbad,y\n", ["--format", "csv", "--text-column", "review"]),
        ('{"text": "a good film"}\n{"text": "bad"}\n', ["-", "--format", "jsonl"]),
    ],
)
def test_stdin_and_python_agree(
    model: str,
    content: str,
    flags: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    stdin(monkeypatch, content)
    predict([model, *flags, "--json"])
    rows = json.loads(capsys.readouterr().out)["predictions"]
    classifier = Classifier.load(model)
    assert [row["predicted"] for row in rows] == classifier.predict(TEXTS).tolist()
    assert np.allclose([[row[f"p:{name}"] for name in LABELS] for row in rows], classifier.predict_proba(TEXTS))
    assert not list(tmp_path.iterdir())


def test_tags_of_words_are_conll_files(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Words without tags are read, and what is written is read again."""
    tagger, output = saved(tmp_path, words=True), tmp_path / "p.conll"
    stdin(monkeypatch, "a\ngood\n\nfilm\n")
    predict([tagger, "-", "--format", "conll", "--output", str(output), "--json"])
    rows = json.loads(capsys.readouterr().out)["predictions"]
    assert [row["words"] for row in rows] == [["a", "good"], ["film"]]
    (a, good), (film,) = (row["predicted"] for row in rows)
    assert output.read_text() == f"a\t{a}\ngood\t{good}\n\nfilm\t{film}\n\n"
    predict([tagger, str(output), "--output", str(tmp_path / "q.jsonl"), "--json"])
    assert [row["predicted"] for row in json.loads(capsys.readouterr().out)["predictions"]] == [[a, good], [film]]
    with pytest.raises(
        InputError, match=r"--output .*x\.conll: expected \.csv, \.parquet or \.jsonl, as .* predicts no"
    ):
        predict([model, str(output), "--output", str(tmp_path / "x.conll")])


def test_a_long_list_of_tags_loses_its_end() -> None:
    tags = [f"{letter}::{letter * 20}" for letter in "abcd"]
    row = {"row": 0, "predicted": tags, "input": "word " * 30} | {f"p:{tag}": 0.5 for tag in tags}
    line = _table([row]).splitlines()[1]
    assert line.startswith(f"{tags[0]} 0.50, {tags[1]} 0...") and len(line) <= 80


def test_what_has_no_tag_says_so() -> None:
    assert _table([{"row": 0, "predicted": [], "input": "x"}]).splitlines()[1].startswith("(no tag)")
    row = {"row": 0, "predicted": ["O"], "words": ["x"], "entities": [], "input": "x"}
    assert _table([row]).splitlines()[1].startswith("(no entity)")


def test_image_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    model = saved(tmp_path, images=True)
    monkeypatch.chdir(tmp_path)
    for name, color in (("a.png", "red"), ("b.JPG", "blue")):
        Image.new("RGB", (20, 20), color).save(name)
    predict([model, "a.png", "b.JPG"])
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == ["input", "a.png", "b.JPG"]
    predict([model, "a.png", "--output", "labels.jsonl", "--json"])
    (row,) = json.loads(capsys.readouterr().out)["predictions"]
    assert row.pop("input") == "a.png" and json.loads(Path("labels.jsonl").read_text()) == row
    Path("torn.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"'torn\.png': unreadable image \(unknown format\); correct or remove it$"):
        predict([model, "a.png", "torn.png"])
    with pytest.raises(InputError, match=r"--text: .*saved classifies images; expected image files"):
        predict([model, "--text", "hello"])


def test_image_files_are_no_texts(model: str, tmp_path: Path) -> None:
    """Their names were labeled."""
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png: .*saved classifies texts; expected a table, a folder of texts, or"):
        predict([model, str(tmp_path / "a.png")])


def test_an_existing_output_stays(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, output = tmp_path / "rows.csv", tmp_path / "labels.csv"
    rows.write_text("text\ngood\n")
    output.write_text("mine")
    with monkeypatch.context() as patch:
        # Said before torch is imported, which takes seconds.
        patch.setattr(
            "hf_finetune.cli.predict.importing", lambda: pytest.fail("imported before the output was checked")
        )
        with pytest.raises(InputError, match=r"labels\.csv: exists already; .* replace it by --overwrite"):
            predict([model, str(rows), "--output", str(output)])
    assert output.read_text() == "mine"
    predict([model, str(rows), "--output", str(output), "--overwrite"])
    assert output.read_text().startswith("row,text,predicted,") and "1 row ->" in capsys.readouterr().out


def test_predictions_carry_the_columns_of_the_input(
    model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": 7, "text": "good", "row": 1, "tags": ["a"]}\n{"id": "x", "text": "bad"}\n')
    output = tmp_path / "labels.jsonl"
    predict([model, str(rows), "--output", str(output)])
    first, second = map(json.loads, output.read_text().splitlines())
    assert list(first) == ["row", "id", "text", "tags", "predicted", "p:bad", "p:good"]
    assert (first["row"], first["id"], first["text"], first["tags"], second["id"]) == (0, "7", "good", ["a"], "x")
    assert "left out: row" in caplog.text
    predict([model, str(rows), "--output", str(output), "--overwrite", "--no-columns"])
    assert list(json.loads(output.read_text().splitlines()[0])) == ["row", "predicted", "p:bad", "p:good"]


def test_predictions_of_a_folder_name_the_files(model: str, tmp_path: Path) -> None:
    for name in ("a/1.txt", "b/2.txt"):
        (tmp_path / "rows" / name).parent.mkdir(parents=True)
        (tmp_path / "rows" / name).write_text("good")
    predict([model, str(tmp_path / "rows"), "--output", str(tmp_path / "labels.csv")])
    with (tmp_path / "labels.csv").open() as file:
        assert [(row["file"], row["label"]) for row in csv.DictReader(file)] == [("a/1.txt", "a"), ("b/2.txt", "b")]


def test_the_columns_of_the_training_are_read(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the rows have them, and no flag names others. `text` is the obvious one."""
    run = tmp_path / "run"
    shutil.copytree(model, run / "model")
    (run / "result.json").write_text(json.dumps({"data": {"columns": {"text": "review", "label": "stars"}}}))
    rows, plain = tmp_path / "rows.csv", tmp_path / "plain.csv"
    rows.write_text("text,review\nbad,a good film\n")
    plain.write_text("text\na good film\n")
    printed = []
    for flags in ([rows], [rows, "--text", "review"], [plain], [rows, "--text", "text"]):
        predict([str(run), *map(str, flags), "--json", "--output", str(tmp_path / "o.csv"), "--overwrite"])
        printed.append(json.loads(capsys.readouterr().out)["predictions"][0]["p:good"])
    assert printed[0] == printed[1] == printed[2] != printed[3]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "csv"])
def test_a_carried_column_changes_its_type(
    model: str, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From one part of the rows to the next: the earlier ones are not lost."""
    monkeypatch.setitem(parts.PART_ROWS, "text", 1)
    rows, output = tmp_path / "rows.jsonl", tmp_path / f"labels.{suffix}"
    keys = [(1, None), (2.5, 3), ("x", 4)]
    rows.write_text("".join(json.dumps({"text": "good", "key": key, "n": n}) + "\n" for key, n in keys))
    predict([model, str(rows), "--output", str(output)])
    if suffix == "parquet":
        table = pq.read_table(output)
        assert table["key"].to_pylist() == ["1.0", "2.5", "x"] and table["n"].to_pylist() == [None, 3, 4]
        assert table["row"].to_pylist() == [0, 1, 2] and table["p:good"].type == "float"
    elif suffix == "jsonl":
        assert [json.loads(line)["key"] for line in output.read_text().splitlines()] == [1, 2.5, "x"]
    else:
        assert [row["key"] for row in csv.DictReader(io.StringIO(output.read_text()))] == ["1", "2.5", "x"]


def test_errors_and_dropped_rows_of_stdin(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    content = "id,text\n1,a good film\n2,\n"
    stdin(monkeypatch, content)
    with pytest.raises(InputError, match=r"^stdin, row 1 \(line 3\), column 'text': the text is empty"):
        predict([model, "-", "--format", "csv"])
    stdin(monkeypatch, content)
    predict([model, "-", "--format", "csv", "--drop-bad-rows", "--json"])
    dropped = json.loads(capsys.readouterr().out)["dropped"]
    assert (
        dropped["rows"] == 1 and dropped["list"][0]["row"] == 1 and "row 1 (line 3): the text is empty" in caplog.text
    )


@pytest.mark.parametrize("flags", [(), ("--drop-bad-rows",)])
def test_a_carried_column_beyond_a_limit_costs_no_prediction(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, flags: tuple[str]
) -> None:
    """All rows are labeled without their other columns, even if the cell comes late; the text has its limit."""
    monkeypatch.setitem(parts.PART_ROWS, "text", 1)
    rows, output = tmp_path / "rows.parquet", tmp_path / "labels.csv"
    pq.write_table(pa.table({"text": ["good", "bad"], "notes": ["x", "x" * 500]}), rows)
    arguments = [model, str(rows), "--output", str(output), "--data.limits.text-characters", "100", *flags]
    predict(arguments)
    assert [line.split(",")[0] for line in output.read_text().splitlines()] == ["row", "0", "1"]
    assert "notes" not in output.read_text().splitlines()[0]
    assert "the other columns are not carried along: " in caplog.text and "column 'notes': 500 bytes" in caplog.text
    pq.write_table(pa.table({"text": ["good", "x" * 500], "notes": ["x", "x"]}), rows)
    if not flags:
        with pytest.raises(InputError, match="column 'text': 500 bytes"):
            predict([*arguments, "--overwrite"])
