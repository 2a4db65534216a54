"""The rows on which the saved artifacts are compared."""

import io
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from hf_finetune.data import thumbnails
from hf_finetune.data.image_decoding import decode
from hf_finetune.errors import GateError, InputError
from hf_finetune.pipeline import parity


def rows(*sides: int) -> datasets.Dataset:
    images = []
    for side in sides:
        file = io.BytesIO()
        Image.fromarray(np.random.default_rng(side).integers(0, 255, (side, side, 3), np.uint8)).save(file, "PNG")
        images.append({"bytes": file.getvalue(), "path": None})
    rows = datasets.Dataset.from_dict({"image": images, "label": list(range(len(sides)))})
    return rows.cast_column("image", datasets.Image(decode=False))


def test_large_images_are_compared_as_reduced_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fresh process decodes sixteen at once, and each several times."""
    monkeypatch.setattr(parity, "LARGE_PIXELS", 100)
    monkeypatch.setattr(thumbnails, "COPY_PIXELS", 100)
    small, whole = rows(10, 8), rows(10, 40, 8)
    assert parity.with_small_images(small) is small
    reduced = parity.with_small_images(whole)
    assert reduced.features == whole.features and reduced["label"][:] == [0, 1, 2]
    assert [decode(image).size for image in reduced["image"]] == [(10, 10), (10, 10), (8, 8)]
    assert reduced[0] == whole[0]
    expected = np.asarray(decode(whole[1]["image"])).reshape(10, 4, 10, 4, 3).mean((1, 3)).round()
    assert np.abs(np.asarray(decode(reduced[1]["image"])) - expected).max() <= 1


@pytest.mark.parametrize("result", [None, {}, {"parity": None}, {"parity": {}}, {"parity": {"reload": {"ok": True}}}])
def test_models_of_others_and_earlier_runs_are_not_refused(tmp_path: Path, result: dict[str, Any] | None) -> None:
    if result is not None:
        (tmp_path / "result.json").write_text(json.dumps(result))
    parity.refuse_unverified(tmp_path)


def test_a_failed_or_damaged_check_is_refused(tmp_path: Path) -> None:
    checks = {"reload": {"ok": True}, "pipeline": {"ok": False, "rows": 16, "labels_agree": 15}}
    (tmp_path / "result.json").write_text(json.dumps({"parity": checks}))
    with pytest.raises(GateError) as refused:
        parity.refuse_unverified(tmp_path)
    why = "parity: pipeline does not reproduce the trained model: 15 over 16 rows; train again"
    assert str(refused.value) == f"{tmp_path}: {why}"
    for damaged in ("no checks", {"reload": 1}, {"reload": {"rows": 16}}):
        (tmp_path / "result.json").write_text(json.dumps({"parity": damaged}))
        with pytest.raises(InputError, match=r"result\.json: parity: expected the checks of a run; restore it"):
            parity.refuse_unverified(tmp_path)
