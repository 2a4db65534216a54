"""Findings of the doctor in images, with every defect inserted by hand."""

import io
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import Dataset
from helpers.hand_made import by_name, rows_of
from PIL import Image

from hf_finetune import InputError
from hf_finetune.data.config import Source
from hf_finetune.doctor.examination import Report, examine
from hf_finetune.doctor.near_duplicates import near_duplicate_images


def noise(seed: int, side: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3)).astype(np.uint8))


def encoded(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, options.pop("format", "PNG"), **options)
    return file.getvalue()


def examined(folder: Path, train: Sequence[bytes], test: Sequence[bytes] = ()) -> Report:
    """Return the report on images of alternating classes."""
    for name, images in (("train", train), ("test", test)):
        if images:
            columns = {
                "image": [{"bytes": b, "path": None} for b in images],
                "label": [("no", "yes")[i % 2] for i in range(len(images))],
            }
            rows = Dataset.from_dict(columns).cast_column("image", datasets.Image(decode=False))
            rows.to_parquet(str(folder / f"{name}.parquet"))
    return examine(Source(str(folder)), "image")


def test_nothing_is_found_in_clean_images(tmp_path: Path) -> None:
    report = examined(tmp_path, [encoded(noise(i)) for i in range(30)], [encoded(noise(100 + i)) for i in range(6)])
    assert report.findings == ()
    assert report.statistics == {"shorter_side": {"least": 32.0, "median": 32.0, "most": 32.0}}


def test_each_defect(tmp_path: Path) -> None:
    smooth = noise(200, 6).resize((32, 32)).convert("L").convert("RGB")
    train = [encoded(noise(i)) for i in range(30)]
    train += [
        train[2],  # 30: an exact copy
        encoded(smooth),  # 31
        encoded(smooth, format="JPEG", quality=85),  # 32: nearly a copy
        encoded(Image.new("RGB", (32, 32), (9, 80, 200))),  # 33: one color
        encoded(noise(300, 6)),  # 34: tiny
    ]
    test = [encoded(noise(100 + i)) for i in range(6)] + [train[5], encoded(smooth, format="JPEG", quality=60)]
    report = examined(tmp_path, train, test)
    assert {name: rows_of(report, name) for name in by_name(report)} == {
        "leaked": [("test", 6)],
        "conflicts": [("train", 5), ("test", 6)],
        "near_leaked": [("test", 7)],
        "one_colour": [("train", 33)],
        "tiny_pictures": [("train", 34)],
        "duplicates": [("train", 30)],
        "near_duplicates": [("train", 32)],
    }
    assert by_name(report)["tiny_pictures"].suspects[0].reason == "6 x 6 pixels"


def test_damaged_files_are_named_and_left_out(tmp_path: Path) -> None:
    train = [encoded(noise(i)) for i in range(30)]
    train[4], train[7] = b"no image", train[7][:200]
    report = examined(tmp_path, train)
    finding = by_name(report)["unusable_image"]
    assert (finding.severity, finding.count, finding.of) == ("serious", 2, 30)
    assert finding.details[0] == "train row 4: unreadable image (unknown format)"
    assert finding.details[1].startswith("train row 7: unreadable image (")
    assert len(report.examples) == 28 and report.findings == (finding,)


def test_a_size_that_gives_the_class_away(tmp_path: Path) -> None:
    report = examined(tmp_path, [encoded(noise(i, 32 + 8 * (i % 2))) for i in range(40)])
    assert by_name(report)["telltales"].details == (
        "32 x 32 pixels: in 20 of 20 rows of no and 0 of 20 others",
        "40 x 40 pixels: in 20 of 20 rows of yes and 0 of 20 others",
    )


def test_rows_beyond_the_first_block_are_compared_too(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (25, 12)).astype(np.uint8)
    pixels[[9, 24]] = pixels[1]
    pixels[17] = pixels[16]
    pixels[20] = pixels[3]
    monkeypatch.setattr("hf_finetune.doctor.near_duplicates.BLOCK", 4)
    expected = list(range(25))
    expected[9] = expected[24] = 1
    expected[17], expected[20] = 16, 3
    assert near_duplicate_images(pixels, np.arange(25)) == expected
    # Of some rows alone: the others are not compared.
    some = np.array([9, 16, 17, 24])
    assert [near_duplicate_images(pixels, some)[i] for i in (9, 16, 17, 24, 1)] == [9, 16, 16, 9, None]


def test_a_chain_of_images_shares_its_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Near duplicates are chained: a test image like the third training image, which is like the first, has leaked."""
    pixels = np.array([[100] * 12, [103] * 12, [106] * 12, [200] * 12], dtype=np.uint8)
    for block in (4, 1):
        monkeypatch.setattr("hf_finetune.doctor.near_duplicates.BLOCK", block)
        assert near_duplicate_images(pixels, np.arange(4)) == [0, 0, 0, 3]


def test_a_checkpoint_is_for_texts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--model vit: it counts the tokens of texts"):
        examine(Source(str(tmp_path)), "image", checkpoint="vit")


def test_a_damaged_file_of_a_folder_is_named(tmp_path: Path) -> None:
    for i in range(24):
        folder = tmp_path / ("no", "yes")[i % 2]
        folder.mkdir(exist_ok=True)
        (folder / f"{i}.png").write_bytes(encoded(noise(i)))
    (tmp_path / "yes" / "bad.png").write_bytes(b"nothing")
    (finding,) = examine(Source(str(tmp_path)), "image").findings
    assert finding.details == (f"train row 24 ({tmp_path / 'yes' / 'bad.png'}): unreadable image (unknown format)",)
