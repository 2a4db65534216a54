import logging
import sys

import numpy as np
import pytest
from datasets import Dataset
from helpers.small_runs import image_rows

from hf_finetune.pipeline import measure_costs
from hf_finetune.pipeline.measure_costs import few_images, isolated


def test_libraries_say_nothing_meanwhile(capsys: pytest.CaptureFixture[str]) -> None:
    """Also those whose handlers hold the stderr of their import."""
    library = logging.getLogger("a_library")
    handler = logging.StreamHandler(sys.stderr)
    library.addHandler(handler)
    try:
        with isolated() as folder:
            library.warning("some weights were not used")
            print("10%", file=sys.stderr)
            assert folder.is_dir()
        assert capsys.readouterr().err == "" and not folder.exists()
        library.warning("afterwards")
    finally:
        library.removeHandler(handler)
    assert capsys.readouterr().err == "afterwards\n"


def test_few_large_images_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beginning with one of each class, and two at least; plan decoded six of 49 megapixels four times over."""
    rows, indices = image_rows(12), np.arange(12)
    assert few_images(rows, indices).tolist() == list(range(12))
    rows = rows.remove_columns("label").add_column("label", [1, 1, 1, 1, 0, -1] * 2)
    sizes = {400: 2, 3 * 32 * 32: 3, 5 * 32 * 32: 5}
    for pixels, count in sizes.items():
        monkeypatch.setattr(measure_costs, "PIXELS", pixels)
        assert few_images(rows, indices).tolist() == [0, 4, 5, 1, 2][:count]
    assert few_images(Dataset.from_dict({"text": ["a"] * 12}), indices) is indices
