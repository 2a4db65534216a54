"""Images and tables of them for data that others made, and how these are refused."""

import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.loading import load
from PIL import Image

from hf_finetune.errors import InputError

STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def save_image(path: Path, color: int = 0) -> Path:
    """Write a small image of one color."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (color, 0, 0)).save(path)
    return path


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    """The file of an image in a format."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def table(path: Path, images: Sequence[str | bytes]) -> str:
    """Write a parquet file of images by path or content, with two classes in turns."""
    structs = [
        {"bytes": None, "path": each} if isinstance(each, str) else {"bytes": each, "path": None} for each in images
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": pa.array(structs, STRUCT), "label": ["a", "b"] * (len(images) // 2)}), path)
    return str(path)


def refusal(path: object, kind: str = "image", **options) -> str:
    """The message, of one line, with which data are refused."""
    with pytest.raises(InputError) as error:
        load(str(path), kind, **options)
    assert "\n" not in str(error.value)
    return str(error.value)
