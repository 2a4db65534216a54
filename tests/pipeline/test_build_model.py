"""Notes on the model before a run."""

import dataclasses
from pathlib import Path

import pytest
from helpers.small_runs import image_rows, small_recipe
from helpers.tiny import tiny_image_checkpoint

from hf_finetune import ImageData, Model
from hf_finetune.pipeline.run import prepare


@pytest.mark.parametrize(
    ("size", "low_resolution", "is_noted"), [(32, None, False), (48, None, False), (64, None, True), (64, 32, False)]
)
def test_a_note_proposes_a_lower_resolution_for_enlarged_images(
    size: int, low_resolution: int | None, is_noted: bool, tmp_path: Path
) -> None:
    for row in image_rows(12):
        path = tmp_path / "data" / ("dark", "bright")[row["label"]] / f"{row['row']}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row["image"]["bytes"])
    recipe = dataclasses.replace(
        small_recipe(tmp_path),
        data=ImageData(path=str(tmp_path / "data"), low_resolution=low_resolution),
        model=Model(str(tiny_image_checkpoint(tmp_path / "vit", image_size=size))),
    )
    notes = [note for note in prepare(recipe).notes if "low-resolution" in note]
    expected = (
        "the images have 32 pixels a side and are read at 64: --data.low-resolution 32 would train most of the steps"
    )
    assert [note.startswith(expected) for note in notes] == [True] * is_noted
