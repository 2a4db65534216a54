"""Precomputed predictions are matched by row, in any order; and every fault gives one line."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from helpers.data_files import parquet_file
from helpers.small_runs import image_rows, text_rows

from hf_finetune.distillation.teachers.loading import Teachers
from hf_finetune.distillation.teachers.precomputed import (
    PrecomputedPredictions,
    is_precomputed,
    read_precomputed,
)
from hf_finetune.errors import InputError
from hf_finetune.tasks.single_label import SingleLabel

ROWS = text_rows(6)
DIGESTS = [hashlib.sha256(text.encode()).hexdigest() for text in ROWS["text"]]
# Probabilities of the class good; the file has the classes in reverse order.
GOOD = np.linspace(0.1, 0.6, 6)


def parquet(path: Path, **columns: Any) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


def array(folder: Path, logits: np.ndarray, **about: Any) -> str:
    """Write an .npy file with its .json."""
    np.save(folder / "logits.npy", logits)
    (folder / "logits.json").write_text(json.dumps({"labels": ["good", "bad"], "digests": DIGESTS, **about}))
    return str(folder / "logits.npy")


def read(name: str, rows: Dataset = ROWS) -> np.ndarray:
    (teacher,) = Teachers((name,), SingleLabel(("bad", "good")), "text").members
    assert isinstance(teacher, PrecomputedPredictions)
    return teacher.logits(rows, "train")


def test_three_formats_of_the_same_predictions(tmp_path: Path) -> None:
    """In reverse order, with unknown rows, by text or digest; the columns follow the order of the data's classes."""
    back, texts = slice(None, None, -1), ROWS["text"][:]
    expected = np.log(np.stack([1 - GOOD, GOOD], axis=1))
    by_text = {"text": [*texts[back], "another"], "p:good": [*GOOD[back], 0.5], "p:bad": [*(1 - GOOD)[back], 0.5]}
    by_digest = {"digest": DIGESTS[back], "logit:good": np.log(GOOD)[back], "logit:bad": np.log(1 - GOOD)[back]}
    names = [
        parquet(tmp_path / "text.parquet", **by_text, row=list(range(7))),
        parquet(tmp_path / "digest.parquet", **by_digest),
        array(tmp_path, np.log(np.stack([GOOD, 1 - GOOD], axis=1))),
    ]
    for name in names:
        assert is_precomputed(name) and np.allclose(read(name), expected, atol=1e-6), name
    teachers = [read_precomputed(name, ("bad", "good")) for name in names]
    assert len({teacher.weights for teacher in teachers}) == 3 and all(
        isinstance(teacher, PrecomputedPredictions) for teacher in teachers
    )


def test_shards_of_a_folder(tmp_path: Path) -> None:
    """Two shards may repeat a row alike. A run's folder, which has a predictions.parquet, is not a folder of shards."""
    (tmp_path / "shards").mkdir()
    for i, part in enumerate((slice(0, 4), slice(3, 6))):
        columns = {"text": ROWS["text"][part], "p:good": GOOD[part], "p:bad": (1 - GOOD)[part]}
        parquet(tmp_path / "shards" / f"{i}.parquet", **columns)
    assert is_precomputed(str(tmp_path / "shards")) and np.allclose(np.exp(read(str(tmp_path / "shards")))[:, 1], GOOD)
    (tmp_path / "shards" / "recipe.json").write_text("{}")
    assert not is_precomputed(str(tmp_path / "shards")) and not is_precomputed("google-bert/bert-base-uncased")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    assert not is_precomputed(str(tmp_path / "adapter"))


def test_pairs_images_and_impossible_classes(tmp_path: Path) -> None:
    pairs = Dataset.from_dict({"text": ["a", "ab"], "text_pair": ["bc", "c"], "row": [0, 1]})
    columns = {"text": ["ab", "a"], "text_pair": ["c", "bc"], "p:good": [1.0, 0.25], "p:bad": [0.0, 0.75]}
    actual = read(parquet(tmp_path / "a.parquet", **columns), pairs)
    assert np.allclose(np.exp(actual), [[0.75, 0.25], [0, 1]]) and np.isfinite(actual).all()
    images = image_rows(2)
    digests = [hashlib.sha256(i["bytes"]).hexdigest() for i in images["image"]]
    columns = {"digest": digests[::-1], "p:good": [0.2, 0.8], "p:bad": [0.8, 0.2]}
    actual = read(parquet(tmp_path / "b.parquet", **columns), images)
    assert np.allclose(np.exp(actual), [[0.2, 0.8], [0.8, 0.2]])


GOODS = {"p:good": GOOD, "p:bad": 1 - GOOD}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"text": [*ROWS["text"][1:], "other"], **GOODS},
            r"every row of train, got none from .*a.parquet for 1 of the 6 rows, the first of them row 0 counted from 0 \(text '.*', digest [0-9a-f]{64}\)",
        ),
        ({"row": [0, 1, 2, 3, 4, 5], **GOODS}, r"expected a column 'digest' or 'text'.* write it by `hf-finetune predict --digests`"),
        ({"text": ROWS["text"][:]}, r"a.parquet: expected a column of each class, all p:NAME or all logit:NAME, got text"),
        ({"text": ROWS["text"][:], "p:good": GOOD}, r"2 classes, got .*a.parquet, which lacks 'bad'"),
        ({"text": ROWS["text"][:], **GOODS, "p:fine": GOOD}, r"which has 'fine' besides"),
        ({"text": ROWS["text"][:], "p:good": 2 * GOOD, "p:bad": GOOD}, r"row 5 counted from 0, column 'p:good': expected a probability, got 1.2"),
        ({"text": ROWS["text"][:], "p:good": GOOD, "p:bad": GOOD}, r"row 0 counted from 0: expected .* a sum of 1, got 0.2"),
        ({"text": ROWS["text"][:], "logit:good": [*GOOD[:5], np.nan], "logit:bad": GOOD}, r"row 5 counted from 0, column 'logit:good': expected a f"),
        ({"text": ROWS["text"][:], "p:good": ["x"] * 6, "p:bad": GOOD}, r"expected numbers in the columns p:NAME"),
        ({"text": [*ROWS["text"][:5], ROWS["text"][0]], **GOODS}, r"rows 0 and 5 counted from 0 predict one row, and not alike; keep one"),
        ({"text": [*ROWS["text"][:5], None], **GOODS}, r"row 5 counted from 0, column 'text': expected text, got None"),
        ({"text": ROWS["text"][:], **GOODS, "logit:good": GOOD, "logit:bad": GOOD}, r"all p:NAME or all logit:NAME, got text, p:good"),
        ({"digest": ["xy"] * 6, **GOODS}, r"column 'digest': expected hexadecimal digits"),
    ],
)  # fmt: skip
def test_faulty_tables_are_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"^objective.teacher: .*{message}"):
        read(parquet(tmp_path / "a.parquet", **columns))


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_repeated_predictions(tmp_path: Path, kind: type) -> None:
    """Differences of float16 rounding, 0.0078 at 8, and a row of two nearly equal classes: the first prediction counts,
    with a note. Contradictory predictions are refused."""
    repeated = np.array([[8.0, -3.0], [0.01, 0.0], [8.0078, -3.0], [0.0, 0.05]])
    digests = [DIGESTS[i] for i in (0, 1, 0, 1)]
    teacher = read_precomputed(array(tmp_path, repeated.astype(kind), digests=digests), ("bad", "good"))
    (note,) = teacher.notes
    assert "2 predictions repeat a row, with probabilities that differ by up to 0.015" in note
    assert np.allclose(teacher.logits(ROWS.select([1, 0]), "train"), repeated[[1, 0], ::-1], atol=1e-3)
    alike = array(tmp_path, repeated[[0, 1, 2, 1]].astype(kind), digests=digests)
    assert read_precomputed(alike, ("bad", "good")).notes == ()
    repeated[3] = 0.0, 0.25
    with pytest.raises(InputError, match="rows 1 and 3 counted from 0 predict one row, and not alike; keep one"):
        read_precomputed(array(tmp_path, repeated.astype(kind), digests=digests), ("bad", "good"))


def test_file_names_in_capitals(tmp_path: Path) -> None:
    parquet(tmp_path / "A.PARQUET", text=ROWS["text"][:], **GOODS)
    assert is_precomputed(str(tmp_path)) and np.allclose(np.exp(read(str(tmp_path)))[:, 1], GOOD)


def test_class_names_of_an_array_are_part_of_its_hash(tmp_path: Path) -> None:
    logits = np.zeros((6, 2), np.float32)
    first = read_precomputed(array(tmp_path, logits), ("bad", "good")).weights
    assert read_precomputed(array(tmp_path, logits), ("bad", "good")).weights == first
    assert read_precomputed(array(tmp_path, logits, labels=["bad", "good"]), ("bad", "good")).weights != first


def test_faulty_arrays_are_refused(tmp_path: Path) -> None:
    logits = np.zeros((6, 2))
    for about, content, message in (
        ({"digests": DIGESTS[:5]}, logits, r"logits.npy: expected floats of the shape \(5, 2\), .*logits.json"),
        ({}, logits.astype(int), r"expected floats of the shape \(6, 2\).*, got int64"),
        ({"labels": None}, logits, r"logits.npy: cannot be read with logits.json \(TypeError"),
        ({}, np.array([object()] * 6), r"cannot be read with logits.json \(ValueError"),
        (
            {"labels": ["good", "bad", "bad"]},
            np.zeros((6, 3)),
            r"another name for each class, got .*which has 'bad' more than once",
        ),
        (
            {},
            np.full((6, 2), np.inf),
            r"logits.npy, row 0 counted from 0, column 'good': expected a finite number, got inf",
        ),
    ):
        with pytest.raises(InputError, match=message):
            read(array(tmp_path, content, **about))
    name = array(tmp_path, logits)
    (tmp_path / "logits.npy").write_bytes(b"")
    with pytest.raises(InputError, match=r"logits.npy: cannot be read with logits.json \(EOFError"):
        read(name)
    (tmp_path / "logits.json").unlink()
    with pytest.raises(InputError, match=r"logits.json: no such file; expected .\"labels\""):
        read(str(tmp_path / "logits.npy"))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"bad.parquet: not a readable parquet file"):
        read(str(tmp_path / "bad.parquet"))
    with pytest.raises(InputError, match=r"gone.parquet: no such file or folder; expected predictions in"):
        read(str(tmp_path / "gone.parquet"))
    with pytest.raises(InputError, match=r"expected parquet files, or one .npy file"):
        read(str(tmp_path))


def test_predictions_of_tags_and_numbers(tmp_path: Path) -> None:
    """Probabilities of tags need no sum; numbers are those of the column `predicted`, whatever the target's name."""
    texts = {"text": ["one", "two"]}
    rows, tags = Dataset.from_dict(texts), tmp_path / "tags.parquet"
    parquet_file(tags, **texts, **{"p:b": [0.75, 1.0], "p:a": [0.5, 0.25]})
    logits = read_precomputed(str(tags), ("a", "b"), "sigmoid").logits(rows, "train")
    assert np.allclose(logits, [[0, np.log(3)], [-np.log(3), np.log(1e12)]], atol=1e-4)
    numbers = parquet_file(tmp_path / "numbers.parquet", **texts, predicted=[1000.5, -3.0])
    assert read_precomputed(str(numbers), ("score",), "identity").logits(rows, "train").tolist() == [[1000.5], [-3.0]]
    with pytest.raises(InputError, match="expected a column 'predicted' of numbers, got text, p:b, p:a"):
        read_precomputed(str(tags), ("score",), "identity")


def test_repeated_predictions_of_tags_and_numbers(tmp_path: Path) -> None:
    texts = ["one", "one"]
    tags = parquet_file(tmp_path / "tags.parquet", text=texts, **{"p:a": [0.75, 0.1], "p:b": [0.5, 0.5]})
    with pytest.raises(InputError, match="rows 0 and 1 counted from 0 predict one row, and not alike"):
        read_precomputed(str(tags), ("a", "b"), "sigmoid")
    numbers = parquet_file(tmp_path / "numbers.parquet", text=texts, predicted=[1.0, 2.0])
    (note,) = read_precomputed(str(numbers), ("score",), "identity").notes
    assert "with numbers that differ by up to 1 from its first prediction" in note
