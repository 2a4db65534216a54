"""Data that others made can neither read local files, nor hang, nor fill the memory; each is refused in one line."""

import io
import json
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features
from datasets import Image as HubImage
from helpers.loading import load, stream
from PIL import Image

from hf_finetune.data import image_decoding
from hf_finetune.data.config import DataLimits, Source
from hf_finetune.data.image_checks import damage
from hf_finetune.data.image_decoding import decode, decode_pieces, pieces, upright_size
from hf_finetune.data.image_paths import hub_folder
from hf_finetune.data.layout import Split
from hf_finetune.data.readers.arrow_cells import in_pieces
from hf_finetune.data.readers.dataset_split import DatasetSplit
from hf_finetune.data.readers.json_file import JsonFile
from hf_finetune.data.readers.parquet_file import ParquetFile
from hf_finetune.data.readers.text_file import read_lines
from hf_finetune.data.rows import UnusableRow, read_rows
from hf_finetune.doctor.examination import examine
from hf_finetune.errors import InputError

STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def save_image(path: Path, color: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (color, 0, 0)).save(path)
    return path


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def table(path: Path, images: Sequence[str | bytes]) -> str:
    structs = [
        {"bytes": None, "path": each} if isinstance(each, str) else {"bytes": each, "path": None} for each in images
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": pa.array(structs, STRUCT), "label": ["a", "b"] * (len(images) // 2)}), path)
    return str(path)


def refusal(path: object, kind: str = "image", **options) -> str:
    with pytest.raises(InputError) as error:
        load(str(path), kind, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# Paths inside data


def test_images_named_below_the_table_or_the_image_root_are_read(tmp_path: Path) -> None:
    names = [save_image(tmp_path / "data" / "images" / f"{i}.png", i).name for i in range(8)]
    beside = table(tmp_path / "data" / "rows.parquet", [f"images/{name}" for name in names])
    splits = load(beside, "image")
    paths = [image["path"] for rows in (splits.train, splits.validation) for image in rows["image"]]
    assert sorted(paths) == [str(tmp_path / "data" / "images" / name) for name in names]
    elsewhere = table(tmp_path / "other" / "rows.parquet", names)
    assert "no such file" in refusal(elsewhere)
    assert len(load(elsewhere, "image", image_root=str(tmp_path / "data" / "images")).train) == 6
    assert "--data.image-root" in refusal(elsewhere, image_root=str(tmp_path / "missing"))


def test_paths_that_lead_out_are_refused(tmp_path: Path) -> None:
    secret = save_image(tmp_path / "secret.png")
    data = tmp_path / "data"
    (save_image(data / "a.png"), (data / "out.png").symlink_to(secret), (data / "in.png").symlink_to("a.png"))
    (data / "up").symlink_to(tmp_path)
    for path in (str(secret), "../secret.png", "up/../../secret.png", "out.png", "up/secret.png", "/etc/passwd"):
        message = refusal(table(data / "rows.parquet", ["a.png", path, "a.png", path]))
        assert "rows.parquet, row 1 counted from 0, column 'image': " in message and "leads out of" in message
        assert "--data.image-root" in message
    (rows,) = stream(table(data / "rows.parquet", ["a.png", "in.png"]), "image")
    assert len(rows) == 2


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket.png"))
    for name in ("pipe.png", "folder.png", "socket.png"):
        assert f"row 0 counted from 0, column 'image': '{name}' is no regular file" in refusal(
            table(tmp_path / "a.parquet", [name] * 4)
        )
        assert damage({"bytes": None, "path": str(tmp_path / name)}) is not None
    for kind, name in (("image", "pipe.png"), ("text", "pipe.txt")):
        for label in "ab":
            save_image(tmp_path / "classes" / label / "a.png")
            (tmp_path / "classes" / label / "a.txt").write_text("text")
        os.mkfifo(tmp_path / "classes" / "a" / name)
        assert "no regular file" in refusal(tmp_path / "classes", kind)
    os.mkfifo(tmp_path / "rows.csv")
    assert "rows.csv: expected a regular file" in refusal(tmp_path / "rows.csv", "text")


def test_links_of_a_class_folder_stay_within_it(tmp_path: Path) -> None:
    secret, words = save_image(tmp_path / "secret.png"), tmp_path / "secret.txt"
    words.write_text("secret")
    for label in "ab":
        for i in range(3):
            save_image(tmp_path / "data" / label / f"{i}.png", 10 * i + ord(label))
            (tmp_path / "data" / label / f"{i}.txt").write_text(f"{label} {i}")
    (tmp_path / "data" / "a" / "link.png").symlink_to("0.png")
    assert load(str(tmp_path / "data"), "image", image_root=str(tmp_path)) is not None
    (tmp_path / "data" / "a" / "out.png").symlink_to(secret)
    assert "a/out.png, column 'image'" in refusal(tmp_path / "data")
    assert load(str(tmp_path / "data"), "image", image_root=str(tmp_path)) is not None
    (tmp_path / "data" / "a" / "out.txt").symlink_to(words)
    assert "out.txt" in refusal(tmp_path / "data", "text")


@pytest.mark.parametrize("place", ["a", "train/a"])
def test_a_linked_class_folder_is_refused(tmp_path: Path, place: str) -> None:
    """It would not be followed, and its class would be missing without a word."""
    root = (tmp_path / "data" / place).parent
    for label in "bc":
        save_image(root / label / "0.png", ord(label))
    save_image(tmp_path / "elsewhere" / "0.png", 5)
    (root / "a").symlink_to(tmp_path / "elsewhere")
    assert f"{root / 'a'}: a link to a folder" in refusal(tmp_path / "data")


def test_a_snapshot_of_the_hubs_cache_consists_of_links(tmp_path: Path) -> None:
    for i, label in enumerate("ab" * 3):
        blob = save_image(tmp_path / "blobs" / f"{i}.png", i)
        (tmp_path / "snapshots" / "1" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "snapshots" / "1" / label / f"{i}.png").symlink_to(
            os.path.join("..", "..", "..", "blobs", blob.name)
        )
    assert len(load(str(tmp_path / "snapshots" / "1"), "image").train) == 4


def test_a_hub_data_set_reads_its_own_downloads_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    own = save_image(tmp_path / "hub" / "datasets--me--photos" / "snapshots" / "1" / "a.png")
    foreign = (save_image(tmp_path / "secret.png"), save_image(tmp_path / "hub" / "datasets--you--x" / "a.png"))
    for path, expected in ((own, None), *((path, "leads out of") for path in foreign)):
        rows = Dataset.from_dict({"image": [{"bytes": None, "path": str(path)}]}, features=Features(image=HubImage()))
        split = Split("train", (DatasetSplit("me/photos, split train", rows, hub_folder("me/photos")),))
        unusable: list[UnusableRow] = []
        list(read_rows(split, {"image": "image"}, None, unusable=unusable))
        assert [expected in row.reason for row in unusable] == ([] if expected is None else [True])


def test_images_of_other_types_are_refused(tmp_path: Path) -> None:
    for values in ([{"bytes": 5, "path": "a"}], [{"bytes": b"", "path": "a\0b"}], [{"bytes": None, "path": ["a"]}]):
        pq.write_table(pa.table({"image": values * 4, "label": ["a", "b"] * 2}), tmp_path / "a.parquet")
        assert "a.parquet, row 0 counted from 0, column 'image': " in refusal(tmp_path / "a.parquet")


# Formats


@pytest.mark.parametrize("kind", ["EPS", "PCX", "TGA", "ICO", "SGI"])
def test_other_formats_are_never_opened(kind: str, tmp_path: Path) -> None:
    content = encoded(Image.new("RGB", (16, 16)), kind)
    (tmp_path / "a.png").write_bytes(content)
    for image in ({"bytes": content, "path": None}, {"bytes": None, "path": str(tmp_path / "a.png")}):
        assert damage(image) == "unknown format"
        with pytest.raises(InputError, match="unknown format"):
            decode(image)


@pytest.mark.parametrize("kind", image_decoding.FORMATS)
def test_every_format_of_the_list_is_read(kind: str) -> None:
    if kind not in image_decoding._formats():
        pytest.skip(f"this Pillow has no {kind}")
    image = {"bytes": encoded(Image.new("RGB", (16, 16), (255, 0, 0)), kind), "path": None}
    assert damage(image) is None
    assert np.asarray(decode(image))[0, 0, 0] > 200


# Bombs


def test_pixels_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = {"bytes": encoded(Image.new("L", (200, 100))), "path": None}
    assert damage(large) is None
    assert "200 x 100 pixels, expected at most 19,999" in (damage(large, DataLimits(image_pixels=19_999)) or "")
    path = table(tmp_path / "a.parquet", [large["bytes"], encoded(Image.new("L", (8, 8)))] * 4)
    message = refusal(path, limits=DataLimits(image_pixels=19_999))
    assert "a.parquet, row 0 counted from 0, column 'image'" in message and "--data.limits.image-pixels" in message
    assert "--data.limits.image-bytes" in refusal(path, limits=DataLimits(image_bytes=80))
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 9_000)
    assert "make it smaller" in (damage(large) or "")


def test_a_large_jpeg_is_decoded_at_a_half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_decoding, "REDUCED_PIXELS", 10_000)
    image = {"bytes": encoded(Image.new("RGB", (400, 100)), "JPEG"), "path": None}
    assert decode(image).size == (200, 50)
    assert damage(image, DataLimits(image_pixels=10_000)) is None
    # Its coefficients are held as a whole.
    progressive = {"bytes": encoded(Image.new("RGB", (400, 100)), "JPEG", progressive=True), "path": None}
    assert decode(progressive).size == (400, 100)
    assert "400 x 100 pixels" in (damage(progressive, DataLimits(image_pixels=10_000)) or "")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "TIFF"])
def test_a_decoded_image_holds_nothing_of_its_file(kind: str) -> None:
    """The decoder of WebP has copies of the whole image."""
    assert type(decode({"bytes": encoded(Image.new("RGB", (16, 16)), kind), "path": None})) is Image.Image


def test_the_sides_of_an_image_have_a_limited_ratio(tmp_path: Path) -> None:
    """1 x 16,000,000 pixels took 3 GB where a processor sets the shorter side, and a minute to decode."""
    for size in ((1, 101), (101, 1), (1, 16_000_000)):
        content = encoded(Image.new("1", size))
        message = refusal(table(tmp_path / "a.parquet", [content] * 4))
        assert (
            f"a.parquet, row 0 counted from 0, column 'image': unreadable image ({size[0]:,} x {size[1]:,} pixels"
            in message
        )
        assert "--data.limits.image-ratio" in message
    square = {"bytes": encoded(Image.new("1", (1, 100))), "path": None}
    assert damage(square) is None
    assert "a ratio of at most 99" in (damage(square, DataLimits(image_ratio=99)) or "")


def test_pixels_of_slow_decoders_count_several_times() -> None:
    if "JPEG2000" not in image_decoding._formats():
        pytest.skip("this Pillow has no JPEG 2000")
    image = {"bytes": encoded(Image.new("L", (20, 10)), "JPEG2000"), "path": None}
    assert damage(image, DataLimits(image_pixels=800)) is None
    assert "expected at most 199 in total of a JPEG2000 image" in (damage(image, DataLimits(image_pixels=799)) or "")


def test_the_header_tells_the_size_of_the_decoded_image() -> None:
    exif = Image.Exif()
    exif[image_decoding.ORIENTATION] = 6
    for options in ({}, {"exif": exif}):
        image = {"bytes": encoded(Image.new("RGB", (40, 10)), "JPEG", **options), "path": None}
        assert upright_size(image) == decode(image).size == ((10, 40) if options else (40, 10))


def test_the_size_of_an_image_is_read_without_its_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow decodes a PNG to look for an orientation behind its pixels."""
    exif = Image.Exif()
    exif[image_decoding.ORIENTATION] = 6
    image = Image.new("RGB", (40, 10))
    images = [{"bytes": encoded(image, **options), "path": None} for options in ({}, {"exif": exif})]
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("decoded"))
    assert [upright_size(image) for image in images] == [(40, 10), (10, 40)]
    assert [image_decoding.count_within(images, most) for most in (399, 400, 799, 800)] == [0, 1, 1, 2]


def test_large_images_are_decoded_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_decoding, "PIXELS_AT_ONCE", 1_000)
    images = [{"bytes": encoded(Image.new("L", (side, side))), "path": None} for side in (10, 30, 10, 40, 5, 5)]
    assert [[image.width for image in piece] for piece in decode_pieces(images)] == [[10, 30], [10], [40], [5, 5]]
    # No piece is held while the next one is decoded.
    decoded = list(decode_pieces(images))
    assert [len(piece) for piece in decoded] == [0, 0, 0, 2]
    assert [len(piece) for piece in pieces(images)] == [2, 1, 1, 2]
    assert [len(piece) for piece in pieces([{"bytes": b"x", "path": None}] * 3)] == [3]


def bomb(path: Path, rows: int, text: str, **options) -> Path:
    """Write one text that all rows share: a few bytes of parquet."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), [text])
    if options.pop("plain_type", False):
        texts = texts.cast(pa.string())
    pq.write_table(pa.table({"text": texts, "label": ["a", "b"] * (rows // 2)}), path, compression="zstd", **options)
    return path


@pytest.mark.parametrize("plain_type", [False, True])
def test_a_small_file_of_many_bytes_is_refused_as_they_are_counted(tmp_path: Path, plain_type: bool) -> None:
    path = bomb(tmp_path / "a.parquet", 4_000, "word " * 40, plain_type=plain_type)
    assert path.stat().st_size < 3_000
    limits = DataLimits(decoded_bytes=60_000)
    message = refusal(path, "text", limits=limits)
    assert "a.parquet: it decodes to more than" in message and "--data.limits.decoded-bytes" in message
    with pytest.raises(InputError, match="decoded-bytes"):
        list(stream(path, "text", labels=("a", "b"), limits=limits))
    assert sum(chunk.size for chunk in ParquetFile(path).chunks(["text"], 1_000)) == 4_000


def test_the_size_that_a_file_declares_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    rows = {"text": ["word " * 500] * 100, "label": ["a", "b"] * 50}
    pq.write_table(pa.table(rows), path, compression="zstd", use_dictionary=False)
    monkeypatch.setattr("hf_finetune.data.readers.parquet_file.in_pieces", lambda *_, **__: pytest.fail("decoded"))
    reader = ParquetFile(path, limits=DataLimits(decoded_bytes=100_000))
    with pytest.raises(InputError, match="decodes to more than"):
        list(reader.chunks(["text"], 100))


def test_batches_are_smaller_where_a_dictionary_is_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bomb(tmp_path / "a.parquet", 40, "x" * 9_000, plain_type=True)
    monkeypatch.setattr("hf_finetune.data.readers.parquet_file.BATCH_BYTES", 30_000)
    sizes = []
    read = pq.ParquetFile.iter_batches
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda f, size, **o: sizes.append(size) or read(f, size, **o))
    assert [chunk.size for chunk in ParquetFile(path).chunks(["text"], 30)] == [30, 10]
    # The first call looks at metadata only.
    assert sizes == [1, 3]


def test_cells_are_limited(tmp_path: Path) -> None:
    limits = DataLimits(text_characters=100)
    rows = [("short", "a"), ("other", "b")] * 5 + [("x" * 101, "a")]
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    message = refusal(tmp_path / "a.csv", "text", limits=limits)
    assert "a.csv, row 10 (line 12), column 'text': the text has 101 characters, expected at most 100" in message
    assert "--data.limits.text-characters" in message
    texts, labels = zip(*[("x" * 401, "a"), ("y", "b")] * 4, strict=True)
    pq.write_table(pa.table({"text": texts, "label": labels}), tmp_path / "a.parquet")
    assert "a.parquet, row 0 counted from 0, column 'text': 401 bytes" in refusal(
        tmp_path / "a.parquet", "text", limits=limits
    )
    (tmp_path / "b.csv").write_text("text,label\nsome,a\nmore," + "b" * 1_001 + "\n")
    assert "row 1 (line 3), column 'label': the label has 1,001 characters" in refusal(tmp_path / "b.csv", "text")


def test_pieces_keep_the_rows_and_their_numbers() -> None:
    texts = ["a" * size for size in (1, 40_000_000, 2, 3, 20_000_000, 20_000_000, 4)]
    batches = pa.table({"text": texts}).to_batches(max_chunksize=3)
    limits = DataLimits(text_characters=40_000_000)
    parts = [(piece.first, piece.table["text"].to_pylist()) for piece in in_pieces(batches, 2, "rows", limits)]
    assert [text for _, part in parts for text in part] == texts
    assert [first for first, _ in parts] == np.cumsum([0, *(len(part) for _, part in parts[:-1])]).tolist()
    assert max(len(part) for _, part in parts) == 2
    assert [len(part) for _, part in parts] == [1, 1, 2, 1, 2]


def test_classes_are_limited_by_the_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"text {i},c{i % 30}\n" for i in range(90)))
    message = refusal(tmp_path / "a.csv", "text", limits=DataLimits(classes=20))
    assert "column 'label' holds 30 classes in 90 rows" in message and "--data.limits.classes" in message
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"text {i},c{i % 30}\n" for i in range(300)))
    assert len(load(str(tmp_path / "a.csv"), "text", limits=DataLimits(classes=20)).labels) == 30


def test_columns_are_limited(tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(30)]
    (tmp_path / "a.csv").write_text(f"text,label,{','.join(names)}\na,b{',1' * 30}\n")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": "a", "label": "b", n: 1}) + "\n" for n in names))
    pq.write_table(pa.table({name: ["a"] for name in ("text", "label", *names)}), tmp_path / "a.parquet")
    for suffix, columns in (("csv", 32), ("jsonl", 21), ("parquet", 32)):
        message = refusal(tmp_path / f"a.{suffix}", "text", limits=DataLimits(columns=20))
        assert f"{columns} columns, expected 20 or less" in message and "--data.limits.columns" in message


def test_long_lines_are_refused(tmp_path: Path) -> None:
    row = json.dumps({"text": "a" * 100, "label": "b"})
    for name, content in (("a.csv", f"text,label\n{'a' * 100},b\n"), ("a.jsonl", f"\n{row}\n"), ("a.json", f"[{row}]")):
        (tmp_path / name).write_text(content)
        place = "row 0 counted from 0" if name == "a.json" else "line 2"
        message = refusal(tmp_path / name, "text", limits=DataLimits(row_characters=100))
        assert f"{name}, {place}: more than 100 characters" in message and "--data.limits.row-characters" in message


def test_a_declared_number_of_classes_makes_no_names(tmp_path: Path) -> None:
    """A billion took all memory; nested metadata, a traceback."""
    for described in ({"label": {"_type": "ClassLabel", "num_classes": 10**9}}, {"label": 5}, [], "[" * 10_000):
        metadata = json.dumps({"info": {"features": described}}) if not isinstance(described, str) else described
        rows = pa.table({"text": ["a", "b"], "label": [0, 1]}).replace_schema_metadata({"huggingface": metadata})
        pq.write_table(rows, tmp_path / "a.parquet")
        assert ParquetFile(tmp_path / "a.parquet").columns()["label"].kind == "number"


def test_sparse_files_are_not_read_as_a_whole(tmp_path: Path) -> None:
    """Holes of 10 GB."""
    for label in "ab":
        for i in range(3):
            save_image(tmp_path / "data" / label / f"{i}.png", 10 * i + ord(label))
            (tmp_path / "data" / label / f"{i}.txt").write_text(f"{label} {i}")
    for name in ("data/a/0.png", "data/b/1.txt", "rows.csv"):
        with (tmp_path / name).open("ab") as file:
            file.truncate(10_000_000_000)
    assert "--data.limits.image-bytes" in refusal(tmp_path / "data")
    assert "--data.limits.text-characters" in refusal(tmp_path / "data", "text")
    assert "rows.csv, line 1: a NUL byte" in refusal(tmp_path / "rows.csv", "text")


def test_long_lines_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_finetune.data.readers.text_file.CHARACTERS_AT_ONCE", 4)
    for content in ("abc\ndefg\nhijkl\n\nabcdefgh", "abc\r\ndefghijk\r\n", "abcd", ""):
        (tmp_path / "a.txt").write_bytes(content.encode())
        assert list(read_lines(tmp_path / "a.txt", "utf-8")) == content.splitlines(keepends=True)


# Files of class folders


def test_files_that_are_not_read_are_counted_by_suffix(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for i, label in enumerate("ab" * 4):
        save_image(tmp_path / label / f"{i}.png", i).rename(tmp_path / label / f"{i}.{('png', 'JFIF')[i // 4]}")
        for name in (f"{i}.heic", f"{i}.HEIC", f"{i}.svg", ".hidden.svg", f"note{i}"):
            (tmp_path / label / name).write_text("x")
    splits = load(str(tmp_path), "image")
    assert len(splits.train) + len(splits.validation) == 8
    note = "32 files in the class folders are not read: 16 .heic, 8 .svg, 8 without a suffix"
    assert note in splits.notes
    assert sum(map(len, stream(tmp_path, "image"))) == 8
    assert note in caplog.text
    (finding,) = (f for f in examine(Source(str(tmp_path)), "image").findings if f.name == "skipped_files")
    assert (finding.count, finding.of) == (32, 8)
    assert finding.details == ("16 .heic", "8 .svg", "8 without a suffix")


# Text that is no text


def test_half_a_surrogate_pair_is_named(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(20)]
    for column in ("text", "label"):
        bad = [*rows, {**rows[0], column: "x\ud800"}]
        (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bad))
        message = refusal(tmp_path / "a.jsonl", "text")
        assert f"row 20 (line 21), column '{column}'" in message and "surrogate" in message
        message.encode()
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({**row, "\udcff": 1}) + "\n" for row in rows))
    refusal(tmp_path / "a.jsonl", "text").encode()


def test_parquet_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    texts = pa.array([b"good", b"caf\xe9"] * 4, pa.binary())
    invalid = pa.Array.from_buffers(pa.string(), len(texts), texts.buffers())
    for column, other in (("text", "label"), ("label", "text")):
        pq.write_table(pa.table({column: invalid, other: ["a", "b"] * 4}), tmp_path / "a.parquet")
        assert f"a.parquet, row 1 counted from 0, column '{column}': the text is not UTF-8" in refusal(
            tmp_path / "a.parquet", "text"
        )


def test_file_names_with_a_line_break_are_named(tmp_path: Path) -> None:
    for i in range(4):
        save_image(tmp_path / "ab"[i % 2] / f"{i}.png")
    save_image(tmp_path / "a" / "in\ntwo.png")
    assert refusal(tmp_path) == f"'{tmp_path}/a/in\\ntwo.png': this name has a line break; rename the file or folder"


def test_file_names_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    for label in "ab":
        save_image(tmp_path / "data" / label / "0.png")
    save_image(tmp_path / "data" / "a" / f"{name}.png")
    (tmp_path / f"{name}.csv").write_text("text,label\n")
    for path, kind in ((tmp_path / "data", "image"), (tmp_path / f"{name}.csv", "text")):
        message = refusal(path, kind)
        assert "not UTF-8; rename" in message
        message.encode()


def test_other_file_names_that_are_not_utf8_are_escaped(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    for label in "ab":
        for i in range(3):
            save_image(tmp_path / label / f"{i}.png", 10 * i + ord(label))
    (tmp_path / name).write_text("")
    (tmp_path / "a" / f"x.{name}").write_text("")
    notes = load(str(tmp_path), "image").notes
    assert any(r"caf\udce9" in note for note in notes)
    "".join(notes).encode()
    examine(Source(str(tmp_path)), "image").describe().encode()


# Names of columns


def test_many_columns_are_read_at_once(tmp_path: Path) -> None:
    """A header of 100,000 names took minutes: each was counted in all of them."""
    names = ",".join(f"c{i}" for i in range(50_000))
    rows = "".join(f"text {i},{'ab'[i % 2]}{',x' * 50_000}\n" for i in range(8))
    (tmp_path / "a.csv").write_text(f"text,label,{names}\n{rows}")
    started = time.process_time()
    assert len(load(str(tmp_path / "a.csv"), "text").train) == 6
    assert time.process_time() - started < 5
    (tmp_path / "a.csv").write_text(f"text,label,{names},c7\n{rows}")
    assert "the header names the column 'c7' twice" in refusal(tmp_path / "a.csv", "text")


def test_a_name_of_a_column_is_shortened(tmp_path: Path) -> None:
    rows = "".join(f"text {i},{'ab'[i % 2]},x\n" for i in range(8))
    (tmp_path / "a.csv").write_text(f"text,label,{'x' * 100_000}\n{rows}")
    assert max(map(len, load(str(tmp_path / "a.csv"), "text").notes)) < 300


def test_rows_of_other_keys_are_inspected_at_once(tmp_path: Path) -> None:
    rows = [{"text": f"t {i}", "label": "ab"[i % 2]} | {f"k{i}x{j}": 1 for j in range(200)} for i in range(1000)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    start = time.process_time()
    assert len(JsonFile(path, limits=DataLimits(columns=300_000)).columns()) == 200_002
    assert time.process_time() - start < 5
