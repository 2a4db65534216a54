"""Rows in memory are read as rows of files are."""

from __future__ import annotations

import csv
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict
from PIL import Image

from hf_finetune import InputError
from hf_finetune.data.config import Source, SplitOptions
from hf_finetune.data.image_decoding import decode
from hf_finetune.data.loading import Splits, load
from hf_finetune.data.memory import collect, holding, input_columns
from hf_finetune.data.sources import sniff_kind

TEXTS = [f"a good film {i}" for i in range(20)] + [f"a bad film {i}" for i in range(20)]
LABELS = ["pos"] * 20 + ["neg"] * 20
COLUMNS = {"text": TEXTS, "label": LABELS}
FRAME = pd.DataFrame(COLUMNS)
IMAGES = [np.full((8, 8, 3), 5 * i, np.uint8) for i in range(40)]


class Exporting:
    """A table of another library, which exports Arrow."""

    def __init__(self, table: pa.Table) -> None:
        self.table, self.columns = table, table.column_names

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)


def read(data: Any, kind: str | None = None, options: SplitOptions | None = None, **source: Any) -> Splits:
    with holding({"data": collect(data)}):
        where = Source("memory:data", **source)
        return load(where, kind or sniff_kind(where), options)  # type: ignore[arg-type]


def sniff_kind_of(data: Any) -> str:
    with holding({"data": collect(data)}):
        return sniff_kind(Source("memory:data"))


def refusal(data: Any, **source: Any) -> str:
    with pytest.raises(InputError) as error:
        read(data, "text", **source)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def from_file(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    path = tmp_path_factory.mktemp("file") / "rows.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *zip(TEXTS, LABELS, strict=True)])
    return load(Source(str(path)), "text")


@pytest.mark.parametrize(
    "data",
    [
        FRAME,
        FRAME.assign(other=[1, "a"] * 20, text=FRAME.text.astype("category")),
        FRAME.set_index(pd.Index(range(100, 140))),
        FRAME.astype(object),
        COLUMNS,
        (TEXTS, LABELS),
        (np.array(TEXTS), pd.Series(LABELS)),
        (FRAME[["text"]], LABELS),
        Dataset.from_dict(COLUMNS),
        Dataset.from_dict(COLUMNS).select(range(39, -1, -1)).select(range(39, -1, -1)),
        pa.table(COLUMNS),
        Exporting(pa.table(COLUMNS)),
        {"train": FRAME},
    ],
    ids=lambda data: type(data).__name__,
)
def test_the_same_rows_have_the_same_splits_as_from_a_file(data: Any, from_file: Splits) -> None:
    splits = read(data)
    assert (splits.fingerprint, splits.labels) == (from_file.fingerprint, from_file.labels)
    assert splits.validation.to_dict() == from_file.validation.to_dict()


def test_polars(from_file: Splits) -> None:
    frame = pl.DataFrame(COLUMNS).with_columns(pl.col("label").cast(pl.Categorical))
    for data in (frame, (frame["text"], frame["label"]), (frame.select("text"), LABELS)):
        assert read(data).fingerprint == from_file.fingerprint
    assert "expected a pandas or polars DataFrame" in refusal(frame.lazy())


def test_splits_pairs_and_numbers() -> None:
    splits = read(DatasetDict({"train": Dataset.from_dict(COLUMNS), "test": Dataset.from_dict(COLUMNS)}))
    assert splits.test is not None and len(splits.test) == 40 and splits.duplicates["test"] == 36
    pairs = read(([(text, "b") for text in TEXTS], [0, 1] * 20))
    assert list(pairs.columns) == ["text", "text_pair", "label"] and pairs.labels == ("0", "1")
    assert read((TEXTS, np.array([0.0, 1.0] * 20))).labels == ("0", "1")
    assert read({"text": TEXTS, "label": [*LABELS[:-1], 7]}).labels == ("7", "neg", "pos")


@pytest.mark.parametrize(
    "images",
    [IMAGES, [Image.fromarray(pixels) for pixels in IMAGES], np.stack(IMAGES)],
    ids=["arrays", "pillow", "one array"],
)
def test_images(images: Any) -> None:
    splits = read((images, LABELS))
    assert splits.columns == {"image": "image", "label": "label"}
    assert splits.fingerprint == read(pd.DataFrame({"photo": IMAGES, "class": LABELS})).fingerprint


def test_paths_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(40)]
    for path, pixels in zip(paths, IMAGES, strict=True):
        Image.fromarray(pixels).save(path)
    splits = read((paths, LABELS))
    assert splits.train["image"][0]["path"].startswith(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert read(([Path(path.name) for path in paths], LABELS)).fingerprint == splits.fingerprint
    names = [path.name for path in paths]
    for data in (
        (names, LABELS),
        (np.array(names), LABELS),
        pd.DataFrame({"file": names, "class": LABELS}),
        pl.DataFrame({"file": names, "class": LABELS}),
    ):
        assert read(data).fingerprint == splits.fingerprint, "strings that all name images are paths"
    assert sniff_kind_of((["a.png", "a text"], [0, 1])) == "text"
    with pytest.raises(InputError, match=r"row 0 counted from 0, column 'image': .*leads out of"):
        read(([Path("..") / tmp_path.name / "0.png", *paths[1:]], LABELS))
    with pytest.raises(InputError, match=r"'none\.png': no such file in .*; give paths that start there, or at /"):
        read((["none.png", *names[1:]], LABELS))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((8, 8, 3)), r"of float64, shape \(8, 8, 3\); of values from 0 to 1 make \(255 \* x\)"),
        (np.zeros((8, 8, 3), np.int64), r"of int64, shape \(8, 8, 3\); convert it, x\.astype\('uint8'\)"),
        (np.zeros((3, 8, 8), np.uint8), r"of uint8, shape \(3, 8, 8\); move the channels to the end, x\.transpose\(1, 2, 0\)"),
        (np.zeros((8, 8, 2), np.uint8), r"of uint8, shape \(8, 8, 2\)$"),
        (np.zeros((2, 2, 8, 8), np.uint8), r"of uint8, shape \(2, 2, 8, 8\)$"),
        (np.zeros((0, 8), np.uint8), "the image cannot be stored"),
        (5, "got int$"),
    ],
)  # fmt: skip
def test_pixels_of_another_shape_or_type_are_one_line(pixels: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"^inputs, row 1 counted from 0: .*{message}") as error:
        input_columns([IMAGES[0], pixels], kind="image", name="inputs")
    assert "\n" not in str(error.value)


def test_gray_pixels() -> None:
    gray = [pixels[..., 0] for pixels in IMAGES]
    one_channel = [pixels[..., :1] for pixels in IMAGES]
    assert read((gray, LABELS)).fingerprint == read((one_channel, LABELS)).fingerprint


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (5, "data: expected a pandas or polars DataFrame, .*, got int"),
        (TEXTS, "data: expected a pandas"),
        ((TEXTS, LABELS[:-1]), "data: the columns differ in length: 40 text, 39 label"),
        ({"text": TEXTS, "label": 5}, "data, column 'label': expected a list, got 5"),
        (FRAME.iloc[:0], r"data \(DataFrame\): there are no rows"),
        (pd.DataFrame({"text": [None, *TEXTS[1:]], "label": LABELS}), r"data \(DataFrame\), row 0 counted from 0, column 'text': the text is empty"),
        (pd.DataFrame({"text": [*TEXTS[1:], 5], "label": LABELS}), "row 39 counted from 0, column 'text': expected text, got 5"),
        (pd.DataFrame({"text": TEXTS, "label": [*LABELS[1:], pd.NA]}), "row 39 counted from 0, column 'label': the label is empty"),
        (pd.DataFrame({"a": TEXTS, "b": TEXTS, "c": LABELS}), "the column of the text is not obvious"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "two columns are called 'a'"),
        ((FRAME[["text"]], LABELS[1:]), r"data \(DataFrame\): the columns differ in length"),
        ((FRAME, LABELS), "the inputs have a column 'label' beside the labels"),
        (([("a", "b"), "c"], [0, 1]), "data, row 1 counted from 0: expected a pair of texts, got 'c'"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_line(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read(data, "text")
    assert "\n" not in str(error.value)


def test_names_do_not_outlive_the_block(from_file: Splits) -> None:
    with holding({"data": collect(FRAME)}):
        again = pickle.loads(pickle.dumps(Source("memory:data")))
        options = SplitOptions(validation="memory:more")
        with holding({"more": collect(FRAME, name="more")}):
            assert len(load(again, "text", options).validation) == 40
        with pytest.raises(InputError, match="memory:more: these rows were in the memory of a Python session; pass"):
            load(again, "text", options)
    with pytest.raises(InputError, match="memory:data: these rows were"):
        load(Source("memory:data"), "text")


def test_saved_data_sets(tmp_path: Path, from_file: Splits) -> None:
    Dataset.from_dict(COLUMNS).save_to_disk(tmp_path / "one")
    DatasetDict({"train": Dataset.from_dict(COLUMNS), "validation": Dataset.from_dict(COLUMNS)}).save_to_disk(
        tmp_path / "two"
    )
    assert sniff_kind(Source(str(tmp_path / "one"))) == "text"
    assert load(Source(str(tmp_path / "one")), "text").fingerprint == from_file.fingerprint
    assert len(load(Source(str(tmp_path / "two")), "text").validation) == 40
    (tmp_path / "one" / "state.json").write_text("{}")
    with pytest.raises(InputError, match="one: not a readable folder of save_to_disk") as error:
        load(Source(str(tmp_path / "one")), "text")
    assert "\n" not in str(error.value)


def test_inputs_to_predict() -> None:
    assert input_columns(["a", "b"], kind="text") == {"text": ["a", "b"]}
    assert input_columns([("a", "b")], kind="text") == {"text": ["a"], "text_pair": ["b"]}
    assert list(input_columns(np.array([["a"], ["b"]]), kind="text")["text"]) == ["a", "b"]
    assert input_columns([{"a": 1}, {"b": 2}], kind="text") == {"a": [1, None], "b": [None, 2]}
    assert input_columns(["x.png"], kind="image") == {"image": [{"bytes": None, "path": "x.png"}]}
    with pytest.raises(InputError, match="data, row 1 counted from 0: expected an image of Pillow, its path"):
        input_columns([IMAGES[0], 5], kind="image")


def test_an_image_in_memory_is_turned_as_its_file_is() -> None:
    content, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.linear_gradient("L").resize((16, 8)).save(content, "JPEG", exif=exif)
    columns = input_columns([content.getvalue(), Image.open(content)], kind="image")
    file, opened = (np.asarray(decode(each)) for each in columns["image"])
    assert file.shape == (16, 8, 3) and np.array_equal(file, opened)


def test_labels_of_several_columns() -> None:
    """A multi-hot array has a tag for each column, and is no list of tags called 0 and 1."""
    hot = np.array([[i % 2, i % 3 == 0, 1 - i % 2] for i in range(40)])
    held = collect((TEXTS, hot))
    assert held.label_columns == ("0", "1", "2")
    splits = read((TEXTS, hot), label=held.label_columns)
    assert splits.task == "multi-label" and splits.labels == ("0", "1", "2")
    frame = pd.DataFrame({"x": np.arange(40.0), "y": -np.arange(40.0)})
    held = collect({"train": (TEXTS, frame), "test": (TEXTS[:9], frame[:9])})
    assert read((TEXTS, frame), label=held.label_columns).labels == ("x", "y")
    # Of one column there is one label, whatever it is called.
    one = frame[["x"]] + 0.5
    assert collect((TEXTS, one)).label_columns == () and read((TEXTS, one)).labels == ("label",)
    assert "a column 'text' beside the labels" in refusal((TEXTS, frame.rename(columns={"x": "text"})))
