"""`load`: every kind of data, and the message of every kind of error."""

import json
import logging
from pathlib import Path

import pyarrow as pa
import pytest
from datasets import ClassLabel, Features, Image, Value
from helpers.data_files import csv_file, error_of, jsonl_file, noted, parquet_file, png, texts
from helpers.loading import load

from hf_finetune.data.config import Source
from hf_finetune.data.sources import sniff_kind
from hf_finetune.errors import InputError

# Forms of data


def test_one_csv_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = csv_file(tmp_path / "a.csv", texts(40))
    with caplog.at_level(logging.INFO, logger="hf_finetune"):
        splits = load(str(file))
    assert (len(splits.train), len(splits.validation), splits.test) == (36, 4, None)
    assert splits.labels == ("no", "yes")
    assert splits.columns == {"text": "text", "label": "label"}
    assert splits.train.features == Features({"text": Value("string"), "label": Value("int64"), "row": Value("int64")})
    for rows in (splits.train, splits.validation):
        for row in rows:
            assert row["text"] == f"text {row['row']}" and row["label"] == row["row"] % 2
    assert sorted([*splits.train["row"], *splits.validation["row"]]) == list(range(40))
    assert list(splits.train["row"]) == sorted(splits.train["row"])
    assert splits.notes == (
        "inferred: text from column 'text', label from column 'label'",
        "validation: 4 of 40 rows held out from train, each class by its share (fraction 0.1, split_seed 0)",
        "no labeled test rows: nothing is claimed about test",
    )
    assert [r.getMessage() for r in caplog.records] == list(splits.notes)


def test_text_that_others_take_for_missing(tmp_path: Path) -> None:
    rows = [("NA", "null"), ("null", "None"), ("None", "NaN"), ("nan", "NA")] * 2
    rows = [(text + " " * (i // 4), label) for i, (text, label) in enumerate(rows)]
    splits = load(str(csv_file(tmp_path / "a.csv", rows)))
    assert splits.labels == ("NA", "NaN", "None", "null")
    assert sorted([*splits.train["text"], *splits.validation["text"]]) == sorted(text for text, _ in rows)


@pytest.mark.parametrize("form", ["tsv", "json", "jsonl", "parquet"])
def test_every_format_gives_the_same(tmp_path: Path, form: str) -> None:
    rows = texts(30)
    expected = load(str(csv_file(tmp_path / "a.csv", rows)))
    path = tmp_path / f"a.{form}"
    columns = {"text": [t for t, _ in rows], "label": [y for _, y in rows]}
    match form:
        case "tsv":
            path.write_text("text\tlabel\n" + "".join(f"{t}\t{y}\n" for t, y in rows))
        case "json":
            path.write_text(json.dumps(columns))
        case "jsonl":
            jsonl_file(path, [{"text": t, "label": y} for t, y in rows])
        case "parquet":
            parquet_file(path, **columns)
    splits = load(str(path))
    assert splits.fingerprint == expected.fingerprint
    assert splits.train.to_dict() == expected.train.to_dict()


def test_fingerprint_is_pinned(tmp_path: Path) -> None:
    """Independent of machine and paths; depends on the split seed."""
    one = load(str(csv_file(tmp_path / "a.csv", texts(30))))
    assert one.fingerprint == "1a468086015b8be551dd93fc7a15736baa066668fca907a59a9a5be6cddcc105"
    assert load(str(csv_file(tmp_path / "deep/b.csv", texts(30)))).fingerprint == one.fingerprint
    assert load(str(tmp_path / "a.csv"), split_seed=1).fingerprint != one.fingerprint


def test_folder_of_split_files(tmp_path: Path) -> None:
    csv_file(tmp_path / "train.csv", texts(20))
    csv_file(tmp_path / "dev.csv", texts(6, start=100))
    csv_file(tmp_path / "test.csv", texts(4, start=200))
    csv_file(tmp_path / "notes.csv", texts(4))
    splits = load(str(tmp_path))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (20, 6, 4)
    assert list(splits.test["text"]) == ["text 200", "text 201", "text 202", "text 203"]
    assert list(splits.test["row"]) == [0, 1, 2, 3]
    assert splits.duplicates == {"validation": 0, "test": 0}
    assert noted(splits, f"ignored in the folder {tmp_path.name}: notes.csv")
    assert not noted(splits, "held out") and not noted(splits, str(tmp_path))


def test_rows_are_counted_over_shards(tmp_path: Path) -> None:
    parquet_file(tmp_path / "data/train-00000-of-00002.parquet", text=list("abcd"), label=[0, 1, 0, 1])
    parquet_file(tmp_path / "data/train-00001-of-00002.parquet", text=list("efgh"), label=[0, 1, 0, 1])
    parquet_file(tmp_path / "data/validation-00000-of-00001.parquet", text=["x"], label=[1])
    splits = load(str(tmp_path))
    assert list(splits.train["row"]) == list(range(8)) and "".join(splits.train["text"]) == "abcdefgh"


def test_folder_of_texts(tmp_path: Path) -> None:
    for topic in ("tech", "arts"):
        (tmp_path / topic).mkdir()
        for i in range(10):
            (tmp_path / topic / f"{i:03}.txt").write_text(f"about {topic} {i}\n", encoding="utf-8")
    splits = load(str(tmp_path), validation_fraction=0.2)
    assert splits.labels == ("arts", "tech")
    assert (len(splits.train), len(splits.validation)) == (16, 4)
    rows = {**dict(zip(splits.train["row"], splits.train["text"], strict=True))}
    assert all(text == f"about {('arts', 'tech')[row // 10]} {row % 10}\n" for row, text in rows.items())
    (tmp_path / "tech/003.txt").write_bytes(b"first\ncaf\xe9")
    assert error_of(tmp_path) == (
        f"{tmp_path}/tech/003.txt, line 2: byte 0xe9 is not utf-8; name the file's encoding: --data.encoding cp1252"
        ", or --drop-bad-rows leaves such rows out"
    )
    assert "first\ncafé" in [
        t for s in [load(str(tmp_path), encoding="cp1252")] for t in [*s.train["text"], *s.validation["text"]]
    ]
    (tmp_path / "tech/003.txt").write_text(" \n")
    assert (
        f"{tmp_path}/tech/003.txt, column 'text': the text is empty; correct or remove it, or --drop-bad-rows leaves such rows out"
        == error_of(tmp_path)
    )


def test_folder_of_images(tmp_path: Path) -> None:
    for i, name in enumerate(["train/cat/1", "train/cat/2", "train/dog/1", "train/dog/2", "test/dog/1", "val/cat/1"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.png").write_bytes(png(i))
    splits = load(str(tmp_path), kind="image")
    assert splits.labels == ("cat", "dog")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (4, 1, 1)
    assert splits.train.features["image"] == Image(decode=False)
    assert splits.train[0]["image"] == {"bytes": None, "path": str(tmp_path / "train/cat/1.png")}
    assert sniff_kind(Source(str(tmp_path))) == "image"
    (tmp_path / "train/dog/2.png").write_bytes(png(0)[:40])
    (tmp_path / "train/dog/1.png").write_bytes(b"no image")
    assert error_of(tmp_path, "image") == (
        f"{tmp_path}/train/dog/1.png, column 'image': unreadable image (unknown format) "
        "(1 other row has a bad image too); correct or remove them, or --drop-bad-rows leaves such rows out"
    )


def test_parquet_with_images(tmp_path: Path) -> None:
    features = Features({"img": Image(), "label": ClassLabel(names=["zebra", "ant", "unused"])})
    images = [{"bytes": png(i), "path": f"{i}.png"} for i in range(20)]
    parquet_file(tmp_path / "train.parquet", features, img=images, label=[i % 2 for i in range(20)])
    splits = load(str(tmp_path), kind="image")
    assert splits.labels == ("zebra", "ant")
    assert noted(splits, "classes without a training row are ignored: unused")
    assert splits.columns == {"image": "img", "label": "label"}
    assert splits.train[0]["image"] == images[splits.train[0]["row"]]
    bare = parquet_file(tmp_path / "bare.parquet", scan=[p["bytes"] for p in images], label=["a", "b"] * 10)
    splits = load(str(bare), kind="image")
    assert splits.columns["image"] == "scan" and splits.train[0]["image"]["bytes"] == png(splits.train[0]["row"])


def test_images_that_are_missing_or_damaged(tmp_path: Path) -> None:
    images = [png(1), None, png(2), b"", b"junk"]
    path = parquet_file(tmp_path / "a.parquet", image=pa.array(images, pa.binary()), label=list("ababa"))
    assert error_of(path, "image") == (
        f"{path}, row 1 counted from 0, column 'image': the image is missing (2 other rows have a bad image too); "
        "correct or remove them, or --drop-bad-rows leaves such rows out"
    )


def test_pairs(tmp_path: Path) -> None:
    rows = [(f"p{i}", f"h{i}" if i % 3 else "", i % 2, i) for i in range(20)]
    path = csv_file(tmp_path / "a.csv", rows, ("premise", "hypothesis", "label", "idx"))
    splits = load(str(path))
    assert splits.columns == {"text": "premise", "text_pair": "hypothesis", "label": "label"}
    assert noted(splits, "inferred: text from column 'premise', text_pair from column 'hypothesis'")
    assert splits.train.column_names == ["text", "text_pair", "label", "row"]
    assert {row["text_pair"] for row in splits.train if row["row"] % 3 == 0} == {""}
    csv_file(path, [*rows, ("", "h", 1, 20)], ("premise", "hypothesis", "label", "idx"))
    assert (
        "a.csv, row 20 (line 22), column 'premise': the text is empty; correct or remove it, or --drop-bad-rows leaves such rows out"
        in error_of(path)
    )


def test_sniff(tmp_path: Path) -> None:
    assert sniff_kind(Source(str(csv_file(tmp_path / "a.csv", texts(2))))) == "text"
    features = Features({"image": Image(), "label": Value("string"), "caption": Value("string")})
    path = parquet_file(tmp_path / "b.parquet", features, image=[None], label=["a"], caption=["c"])
    assert sniff_kind(Source(str(path))) == "image"
    assert sniff_kind(Source(str(parquet_file(tmp_path / "c.parquet", bytes=[b"x"], label=["a"])))) == "image"
    assert sniff_kind(Source(str(parquet_file(tmp_path / "d.parquet", hash=[b"x"], text=["a"], label=["a"])))) == "text"
    assert (
        sniff_kind(Source(str(parquet_file(tmp_path / "e.parquet", image=[b"x"], text=["a"], label=["a"])))) == "image"
    )
    with pytest.raises(InputError, match="no such file or folder; expected one, or a Hub id"):
        sniff_kind(Source(str(tmp_path / "f.parquet")))


# Texts and labels that are missing or of no use


def test_missing_values_are_named_and_counted(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", [*texts(3000), ("", "no"), (" \t", "yes"), ("x", ""), ("", "no")])
    assert error_of(path) == (
        f"{path}, row 3000 (line 3002), column 'text': the text is empty (2 other rows have a bad text too); "
        "correct or remove them, or --drop-bad-rows leaves such rows out"
    )
    path = csv_file(tmp_path / "b.csv", [*texts(5), ("x", " ")])
    assert (
        error_of(path)
        == f"{path}, row 5 (line 7), column 'label': the label is empty; correct or remove it, or --drop-bad-rows leaves such rows out"
    )
    path = parquet_file(tmp_path / "c.parquet", text=["a", None, "b"], label=["x", "y", None])
    assert (
        error_of(path)
        == f"{path}, row 1 counted from 0, column 'text': the text is empty; correct or remove it, or --drop-bad-rows leaves such rows out"
    )


def test_a_misspelt_key_is_suggested(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": i % 2} for i in range(6)]
    path = jsonl_file(tmp_path / "a.jsonl", [*rows, {"txet": "b", "label": 1}])
    assert error_of(path) == (
        f"{path}, row 6 (line 7), column 'text': the text is empty, the row has no such key, did you mean 'txet'?; "
        "correct or remove it, or --drop-bad-rows leaves such rows out"
    )
    path = jsonl_file(tmp_path / "b.jsonl", [*rows, {"text": "b", "zzz": 1}])
    assert (
        "row 6 (line 7), column 'label': the label is empty, the row has no such key, only 'text', 'zzz'"
        in error_of(path)
    )


def test_text_must_be_text(tmp_path: Path) -> None:
    path = jsonl_file(tmp_path / "a.jsonl", [{"text": "a", "label": 0}, {"text": 5, "label": 1}])
    assert (
        error_of(path)
        == f"{path}, row 1 (line 2), column 'text': expected text, got 5 (int); correct or remove it, or --drop-bad-rows leaves such rows out"
    )
    path.write_text('{"text": "a", "label": 0}\n{"text": NaN, "label": 1}')
    assert "row 1 (line 2), column 'text': the text is empty" in error_of(path)
    path.write_text('{"text": "a", "label": 0}\n{"text": "\\ud83d", "label": 1}')
    assert "row 1 (line 2), column 'text': the text holds half a surrogate pair" in error_of(path)
    path = parquet_file(tmp_path / "a.parquet", text=[1, 2], label=[0, 1])
    assert "a.parquet: column 'text' holds int64, expected text; name another by --text COL" in error_of(
        path, text="text"
    )


# Other options


def test_reading_quotation_marks_as_text_is_said(tmp_path: Path) -> None:
    rows = "".join(f'"word {i}\t{"ab"[i % 2]}\n' for i in range(20))
    (tmp_path / "a.tsv").write_text(f"text\tlabel\n{rows}")
    splits = load(str(tmp_path / "a.tsv"))
    assert any("a.tsv: quotation marks are read as plain" in note for note in splits.notes)
    assert all(text.startswith('"word') for text in splits.train["text"])


def test_columns_by_name(tmp_path: Path) -> None:
    path = csv_file(
        tmp_path / "a.csv", [(f"a{i}", f"b{i}", f"c{i % 2}", i) for i in range(10)], ("one", "two", "three", "n")
    )
    splits = load(str(path), text="two", label="three")
    assert splits.columns == {"text": "two", "label": "three"} and not noted(splits, "inferred")
    assert load(str(path), text="two", text_pair="one", label="three").train[0]["text_pair"].startswith("a")
    assert (
        "the column of the text is not obvious, it could be 'one', 'two', 'three'; name it by --text COL"
        in error_of(path)
    )
    assert f"--text twoo: {path} has no such column, did you mean 'two'?; it has 'one', 'two', 'three', 'n'" in (
        error_of(path, text="twoo")
    )


def test_nothing_touches_the_cache(tmp_path: Path) -> None:
    splits = load(str(csv_file(tmp_path / "a.csv", texts(40))))
    assert splits.train.cache_files == [] and splits.validation.cache_files == []
