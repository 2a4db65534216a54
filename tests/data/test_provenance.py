"""Warnings about checkpoints that were trained on evaluation rows."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from helpers.small_runs import image_rows, small_recipe

from hf_finetune import Launch, Recipe
from hf_finetune.cli.main import main_command
from hf_finetune.data.provenance import FILE, row_keys, save_keys, start_overlaps, teacher_overlaps, trained_on
from hf_finetune.pipeline import run
from hf_finetune.pipeline.load_data import load_splits

pytestmark = pytest.mark.usefixtures("gate_here")


def with_start(recipe: Recipe, folder: str) -> Recipe:
    return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, checkpoint=folder))


def split_anew(recipe: Recipe) -> Recipe:
    """The same file with another split."""
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, split_seed=1))


def folder_of(recipe: Recipe, folder: Path, start: str | None = None) -> str:
    """A folder with the keys that a run of the recipe leaves."""
    (folder / "model").mkdir(parents=True)
    save_keys(folder, [load_splits(recipe.data).train], start)
    return str(folder)


def test_other_rows_were_held_back(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    mine, theirs = load_splits(recipe.data), load_splits(split_anew(recipe).data)
    seen = len(set(mine.validation["text"][:]) - set(theirs.validation["text"][:]))
    assert 0 < seen <= 6
    same, other = folder_of(recipe, tmp_path / "same"), folder_of(split_anew(recipe), tmp_path / "other")
    (line,) = teacher_overlaps([same, other, "google-bert/bert-base-uncased"], mine)
    assert line.startswith(
        f"the teacher other was trained on {seen} of the 6 validation rows: its predictions for them are too"
    )
    assert teacher_overlaps([f"{other}/model"], mine)[0].startswith(f"the teacher model was trained on {seen} of the 6")


def test_a_start_and_what_it_started_from(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    mine, theirs = load_splits(recipe.data), load_splits(split_anew(recipe).data)
    seen = len(set(mine.validation["text"][:]) - set(theirs.validation["text"][:]))
    first = folder_of(split_anew(recipe), tmp_path / "first")
    # The second run has this run's rows: what it knows of the others it has from the first.
    second = folder_of(recipe, tmp_path / "second", first)
    for start in (first, second, f"{second}/model"):
        (line,) = start_overlaps(start, mine)
        assert line == (
            f"{Path(start).name}, which this run starts from, was trained on {seen} of the 6 validation rows: "
            "metrics on them may be too good"
        )
    assert start_overlaps(recipe.model.checkpoint, mine) == []
    keys = trained_on(second)
    assert keys is not None and keys.dtype == np.uint64
    assert set(keys) == {*row_keys(mine.train), *row_keys(theirs.train)} and len(set(keys)) == len(keys)


def test_what_does_not_tell(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    folder = Path(folder_of(split_anew(recipe), tmp_path / "run"))
    # What lies in the folder of a run and is not what it trained.
    (folder / "checkpoints").mkdir()
    assert trained_on(str(folder / "checkpoints")) is None
    assert trained_on("~nobody-of-that-name/run") is None and trained_on("no/such/folder") is None
    (tmp_path / "link").symlink_to(folder / "model")
    assert trained_on(str(tmp_path / "link")) is not None
    content = (folder / FILE).read_bytes()
    for damaged in (b"", content[:100], content[:-3], b"no numbers at all"):
        (folder / FILE).write_bytes(damaged)
        assert trained_on(str(folder)) is None
    np.save(folder / FILE, np.array([0.5]))
    assert trained_on(str(folder)) is None


def test_keys_tell_rows_apart() -> None:
    rows = image_rows(300)
    images = row_keys(rows)
    assert len(set(images)) == 300 and list(row_keys(rows.select(range(7)))) == list(images[:7])
    alike = row_keys(Dataset.from_dict({"text": ["a", "b", "a"]}))
    assert alike[0] == alike[2] != alike[1]


def test_a_run_says_so_and_so_does_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = small_recipe(tmp_path)
    run.run(recipe, Launch(str(tmp_path / "first")))
    other = with_start(split_anew(recipe), f"{tmp_path}/first")
    result = run.run(other, Launch(str(tmp_path / "second")))
    assert result is not None
    (note,) = [note for note in result["notes"] if "which this run starts from, was trained on" in note]
    assert note[:10] in (tmp_path / "second" / "README.md").read_text()
    # Either run kept other rows from training; together they have seen nearly all, wherever the data are now.
    kept = set(load_splits(recipe.data).validation["text"][:]) & set(load_splits(other.data).validation["text"][:])
    moved = Path(recipe.data.path).rename(tmp_path / "moved.csv")
    capsys.readouterr()
    main_command(["evaluate", f"{tmp_path}/second/model", str(moved), "--json"])
    output = capsys.readouterr()
    assert json.loads(output.out)["rows_trained_on"] == 60 - len(kept)
    assert f"{60 - len(kept)} of these 60 rows are training rows" in output.err
    (tmp_path / "second" / FILE).unlink()
    main_command(["evaluate", f"{tmp_path}/second", str(moved), "--json"])
    output = capsys.readouterr()
    assert json.loads(output.out)["rows_trained_on"] is None and "was trained on" not in output.err
