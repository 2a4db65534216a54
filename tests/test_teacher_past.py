"""A teacher that was trained on rows which are scored here, where its folder tells."""

import dataclasses
import json
from pathlib import Path

import pytest
from small_runs import small_recipe

from hf_finetune.codec import to_plain
from hf_finetune.preparation import load_splits
from hf_finetune.recipe import Recipe
from hf_finetune.teacher_past import seen_before


def folder_of(recipe: Recipe, folder: Path) -> str:
    """As a run of the recipe leaves it, of which recipe.json alone is looked at."""
    (folder / "model").mkdir(parents=True)
    record = {"recipe": to_plain(recipe), "fingerprint": load_splits(recipe).fingerprint}
    (folder / "recipe.json").write_text(json.dumps(record))
    return str(folder)


@pytest.mark.usefixtures("gate_here")
def test_other_rows_were_carved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The same file, carved by another seed: the validation rows that it had not for itself it was trained on."""
    recipe = small_recipe(tmp_path)
    carved = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, split_seed=1))
    mine, theirs = load_splits(recipe), load_splits(carved)
    seen = len(set(mine.validation["text"][:]) - set(theirs.validation["text"][:]))
    same, other = folder_of(recipe, tmp_path / "same"), folder_of(carved, tmp_path / "other")
    caplog.clear()
    with caplog.at_level("INFO"):
        (line,) = seen_before([same, other, "google-bert/bert-base-uncased"], mine)
    assert 0 < seen < len(mine.validation) + 1 and caplog.records == []
    assert line.startswith(
        f"the teacher other was trained on {seen} of the 6 validation rows: its answers to them are too"
    )
    assert seen_before([f"{other}/model"], mine)[0].startswith(f"the teacher model was trained on {seen} of the 6")


def test_what_does_not_tell(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Data that are gone, or others now; a folder without a recipe, a damaged one."""
    recipe = small_recipe(tmp_path)
    mine = load_splits(recipe)
    (tmp_path / "copy").mkdir()
    copy = small_recipe(tmp_path / "copy")
    copy = dataclasses.replace(copy, data=dataclasses.replace(copy.data, split_seed=1))
    other, data = folder_of(copy, tmp_path / "other"), Path(copy.data.path)
    assert len(seen_before([other], mine)) == 1
    data.write_text(data.read_text() + "one more,good\n")
    with caplog.at_level("INFO"):
        assert seen_before([other], mine) == [] and "its data are others than it was trained on" in caplog.text
        data.unlink()
        assert seen_before([other], mine) == [] and "what it was trained on cannot be read again" in caplog.text
        (tmp_path / "other" / "recipe.json").write_text("{")
        assert seen_before([other, str(tmp_path)], mine) == []
