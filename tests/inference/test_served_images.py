"""Images of requests that cannot be read."""

from __future__ import annotations

import base64
import io
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from PIL import Image

from hf_finetune.inference.serving.app import Refused, _image, _Service


def _png(width: int, height: int | None = None) -> bytes:
    content = io.BytesIO()
    Image.new("1", (width, height or width)).save(content, "PNG")
    return content.getvalue()


PIXELS = _png(14_000)


def test_an_image() -> None:
    assert _image(_png(4)).size == _image(base64.b64encode(_png(4)).decode()).size == (4, 4)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"GIF", "unknown format"),
        ("?", "base64"),
        (1, "bytes-like"),
        (PIXELS, "more than 178,956,970 pixels"),
    ],
    ids=["format", "base64", "number", "pixels"],
)
def test_what_is_no_image_is_refused(content: object, reason: str) -> None:
    with pytest.raises(Refused, match=reason) as refused:
        _image(content)
    assert refused.value.status == 422


@pytest.mark.parametrize(
    ("kind", "content_type", "reason"),
    [
        ("text", "image/png", "expected JSON"),
        ("image", "application/octet-stream", "expected an image with its content-type"),
    ],
)
def test_a_body_of_another_type_is_refused(kind: str, content_type: str, reason: str) -> None:
    service = Mock(classifier=Mock(kind=kind))
    with pytest.raises(Refused, match=reason) as refused:
        _Service.read(service, content_type, _png(4), 10)
    assert refused.value.status == 400


def test_a_client_reads_of_no_flag() -> None:
    """The limits of `predict` on images are no flags of `serve`."""
    known = {"label_values": None, "columns": None, "label_separator": None, "sequence": None}
    service = Mock(
        classifier=Mock(kind="image", task=SimpleNamespace(name="single-label", has_words=False), **known),
        _input=_image,
    )
    with pytest.raises(
        Refused, match=r"800 x 4 pixels, expected sides of .* at most 100; cut it into pieces\)"
    ) as refused:
        _Service.read(service, "image/png", _png(800, 4), 10)
    assert "--" not in str(refused.value)
