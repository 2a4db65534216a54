import dataclasses
from pathlib import Path

import pytest
from helpers.small_runs import image_folder, small_recipe
from helpers.tiny import tiny_image_checkpoint

from hf_finetune import ImageData, Model, Train
from hf_finetune.pipeline import optimization
from hf_finetune.pipeline.run import prepare


def test_the_learning_rate_of_images_does_not_depend_on_the_width(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some image families (MobileNet, CvT) have no width in their config."""
    recipe = dataclasses.replace(
        small_recipe(tmp_path),
        data=ImageData(path=str(image_folder(tmp_path / "data", 12))),
        model=Model(str(tiny_image_checkpoint(tmp_path / "vit"))),
        method="lora",
        train=Train(),
    )
    run = prepare(recipe)
    monkeypatch.setattr(optimization, "width_of", None)
    assert optimization.learning_rate(run) == 1e-3
