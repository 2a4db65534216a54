"""What a search refuses, in Python and as flags, before anything is written."""

import sys
from pathlib import Path

import pytest
from helpers.small_runs import small_recipe

from hf_finetune import Recipe
from hf_finetune.cli.main import main_command
from hf_finetune.cli.search import parse_search
from hf_finetune.errors import InputError
from hf_finetune.search.augmentation.policy_search import search_policy
from hf_finetune.search.config import SearchOptions
from hf_finetune.search.recipe_variant import RecipeVariant
from hf_finetune.utils.plain import merge


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return small_recipe(tmp_path_factory.mktemp("input"))


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"data": {"augment": ["SwapWords"]}}, SearchOptions(), r"data\.augment: expected none, .* got \(SwapWords"),
        ({"data": {"augment_copies": 2}}, SearchOptions(), r"data\.augment_copies: expected 0, .* got 2"),
        (
            {"evaluate": {"metric": "log_loss"}},
            SearchOptions(),
            r"evaluate\.metric: expected accuracy or macro_f1, .* got .log_loss",
        ),
        (
            {"train": {"seed": 2**32 - 1}},
            SearchOptions(),
            r"train\.seed: expected at most 4294967286, .* got 4294967295",
        ),
        (
            {"train": {"seed": 2**32 - 3}},
            SearchOptions(seeds=4),
            r"train\.seed: expected at most 4294967292, .* got 4294967293",
        ),
        ({"model": {"unfreeze_every": 0.5}}, SearchOptions(), r"model\.unfreeze_every: expected None, .* got 0\.5"),
        ({}, SearchOptions(seeds=2), "--seeds 2: expected at least 3"),
        ({}, SearchOptions(trials=2), "--trials 2: expected at least 3"),
        ({}, SearchOptions(budget_s=1.0), "--budget 1s: 6 runs of 4 steps and a few trials"),
    ],
)
def test_refused_searches_write_nothing(
    recipe: Recipe, changes: dict, options: SearchOptions, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        search_policy(RecipeVariant(merge(recipe, changes)), options, output=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_too_small_a_budget_is_the_first_line(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before what is noted while the data are read and the head is fitted."""
    flags = ["--model", recipe.model.checkpoint, "--max-length", "32", "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as left:
        main_command(["search", "augmentation", recipe.data.path, *flags, "--budget", "1s"])
    assert left.value.code == 2 and not (tmp_path / "out").exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("--budget 1s: 6 runs of 4 steps and a few trials take longer here; expected ")


def test_tpe_without_optuna(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"pip install 'hf_finetune\[search\]'"):
        search_policy(RecipeVariant(recipe), SearchOptions("tpe"), output=str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--find-lr"], "--find-lr: search does not take it"),
        (["--push", "you/name"], "--push: search does not take it"),
        (["--num-processes", "2"], "--num-processes: search does not take it"),
        (["--budget", "soon"], "--budget soon: expected a time such as"),
        (["--searcher", "luck"], "luck"),
    ],
)
def test_flags_that_are_refused(recipe: Recipe, flags: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_search([recipe.data.path, "--text", "text", *flags], "search")


def test_rows_limits_training_rows(recipe: Recipe) -> None:
    job, seconds = parse_search([recipe.data.path, "--text", "text", "--rows", "30", "--budget", "2m"], "search")
    assert job.recipe.data.max_train_rows == 30 and seconds == 120 and job.searcher == "sweep"


def test_unknown_subject_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main_command(["search", "luck", "rows.csv"])
    assert left.value.code == 2
    assert capsys.readouterr().err == "hf-finetune search luck: expected `hf-finetune search augmentation DATA`\n"
