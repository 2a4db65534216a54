"""Paths, links and names of files in data that others made: they lead to no other file, and are named in one line."""

import os
import socket
from pathlib import Path

import pytest
from datasets import Dataset, Features
from datasets import Image as HubImage
from helpers.hostile_files import refusal, save_image, table
from helpers.loading import load, stream

from hf_finetune.data.config import Source
from hf_finetune.data.image_checks import damage
from hf_finetune.data.image_paths import hub_folder
from hf_finetune.data.layout import Split
from hf_finetune.data.readers.dataset_split import DatasetSplit
from hf_finetune.data.rows import UnusableRow, read_rows
from hf_finetune.doctor.examination import examine


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
