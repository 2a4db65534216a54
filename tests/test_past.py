"""Runs that were trained on rows which are scored here, where their folders tell."""

import dataclasses
import json
from pathlib import Path

import pytest
from small_runs import small_recipe

from hf_finetune import pipeline
from hf_finetune.cli import main_command
from hf_finetune.codec import to_plain
from hf_finetune.past import doubts_of_start, doubts_of_teachers, trained_on
from hf_finetune.preparation import load_splits
from hf_finetune.recipe import Launch, Model, Recipe

pytestmark = pytest.mark.usefixtures("gate_here")


def folder_of(recipe: Recipe, folder: Path) -> str:
    """As a run of the recipe leaves it, of which recipe.json alone is looked at."""
    (folder / "model").mkdir(parents=True)
    record = {"recipe": to_plain(recipe), "fingerprint": load_splits(recipe).fingerprint}
    (folder / "recipe.json").write_text(json.dumps(record))
    return str(folder)


def with_start(recipe: Recipe, folder: str) -> Recipe:
    return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, checkpoint=folder))


def test_other_rows_were_carved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The same file, carved by another seed: the validation rows that it had not for itself it was trained on."""
    recipe = small_recipe(tmp_path)
    carved = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, split_seed=1))
    mine, theirs = load_splits(recipe), load_splits(carved)
    seen = len(set(mine.validation["text"][:]) - set(theirs.validation["text"][:]))
    same, other = folder_of(recipe, tmp_path / "same"), folder_of(carved, tmp_path / "other")
    caplog.clear()
    with caplog.at_level("INFO"):
        (line,) = doubts_of_teachers([same, other, "google-bert/bert-base-uncased"], mine)
    assert 0 < seen < len(mine.validation) + 1 and caplog.records == []
    assert line.startswith(
        f"the teacher other was trained on {seen} of the 6 validation rows: its answers to them are too"
    )
    assert doubts_of_teachers([f"{other}/model"], mine)[0].startswith(
        f"the teacher model was trained on {seen} of the 6"
    )


def test_a_start_and_what_it_started_from(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    carved = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, split_seed=1))
    mine, theirs = load_splits(recipe), load_splits(carved)
    seen = len(set(mine.validation["text"][:]) - set(theirs.validation["text"][:]))
    first = folder_of(carved, tmp_path / "first")
    # The second run has this run's rows: what it knows of the others it has from the first.
    second = folder_of(with_start(recipe, first), tmp_path / "second")
    for start in (first, second, f"{second}/model"):
        (line,) = doubts_of_start(with_start(recipe, start), mine)
        assert line == (
            f"{Path(start).name}, which this run starts from, was trained on {seen} of the 6 validation rows: what is "
            "measured on them may be too good"
        )
    assert doubts_of_start(recipe, mine) == []
    built = dataclasses.replace(with_start(recipe, first), model=Model(first, from_config={"num_hidden_layers": 1}))
    assert doubts_of_start(built, mine) == [], "nothing of the weights is left"
    digests = trained_on(Path(second))
    assert len(digests) == len({*mine.train["text"][:], *theirs.train["text"][:]})
    # A run that began from itself would be a circle.
    folder_of(with_start(recipe, str(tmp_path / "third")), tmp_path / "third")
    assert len(trained_on(tmp_path / "third")) == len(set(mine.train["text"][:]))


def test_a_run_says_so_and_so_does_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = small_recipe(tmp_path)
    pipeline.run(recipe, Launch(str(tmp_path / "first")))
    other = with_start(
        dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, split_seed=1)), f"{tmp_path}/first"
    )
    result = pipeline.run(other, Launch(str(tmp_path / "second")))
    (note,) = [note for note in result["notes"] if "which this run starts from, was trained on" in note]
    assert note[:10] in (tmp_path / "second" / "README.md").read_text()
    capsys.readouterr()
    main_command(["evaluate", f"{tmp_path}/second", recipe.data.path, "--json"])
    said = capsys.readouterr()
    # Either run kept other rows from training; together they have seen nearly all.
    kept = set(load_splits(recipe).validation["text"][:]) & set(load_splits(other).validation["text"][:])
    assert json.loads(said.out)["rows_trained_on"] == 60 - len(kept)
    assert f"was trained on {60 - len(kept)} of these 60 rows" in said.err


def test_what_does_not_tell(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Data that are gone, or others now; a folder without a recipe, a damaged one."""
    recipe = small_recipe(tmp_path)
    mine = load_splits(recipe)
    (tmp_path / "copy").mkdir()
    copy = small_recipe(tmp_path / "copy")
    copy = dataclasses.replace(copy, data=dataclasses.replace(copy.data, split_seed=1))
    other, data = folder_of(copy, tmp_path / "other"), Path(copy.data.path)
    assert len(doubts_of_teachers([other], mine)) == 1
    data.write_text(data.read_text() + "one more,good\n")
    with caplog.at_level("INFO"):
        assert doubts_of_teachers([other], mine) == [] and "its data are others than it was trained on" in caplog.text
        data.unlink()
        caplog.clear()
        assert trained_on(Path(other), from_hub=False) == set() and caplog.text == "", "it might be of the Hub"
        assert doubts_of_teachers([other], mine) == [] and "what it was trained on cannot be read again" in caplog.text
        (tmp_path / "other" / "recipe.json").write_text("{")
        assert doubts_of_teachers([other, str(tmp_path)], mine) == []
