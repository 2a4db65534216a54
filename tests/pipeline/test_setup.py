"""What is said of the data and the checkpoint before a run begins."""

import dataclasses
from pathlib import Path

import pytest
from helpers.small_runs import image_rows, picture_folder, small_recipe
from helpers.tiny import tiny_image_checkpoint

from hf_finetune.config.recipe import ImageData, Model, Train
from hf_finetune.pipeline import update_rule
from hf_finetune.pipeline.run import prepare
from hf_finetune.pipeline.update_rule import learning_rate


@pytest.mark.parametrize(
    ("size", "low_resolution", "said"), [(32, None, False), (48, None, False), (64, None, True), (64, 32, False)]
)
def test_a_note_where_pictures_are_half_of_what_the_network_reads(
    size: int, low_resolution: int | None, said: bool, tmp_path: Path
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
    assert [note.startswith(expected) for note in notes] == [True] * said


def test_the_width_decides_no_rate_of_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some families of pictures (MobileNet, CvT) tell none by that name."""
    recipe = dataclasses.replace(
        small_recipe(tmp_path),
        data=ImageData(path=str(picture_folder(tmp_path / "data", 12))),
        model=Model(str(tiny_image_checkpoint(tmp_path / "vit"))),
        method="lora",
        train=Train(),
    )
    found = prepare(recipe)
    monkeypatch.setattr(update_rule, "width_of", None)
    assert learning_rate(found) == 1e-3
