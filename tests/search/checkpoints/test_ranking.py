"""Candidates for a checkpoint: who is chosen, what is ranked, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.small_runs import text_rows
from helpers.tiny import tiny_text_checkpoint

from hf_finetune import InputError, Recipe, Search, TextData, rank_checkpoints
from hf_finetune.cli.main import main_command
from hf_finetune.config.recipe import Launch, Model
from hf_finetune.search import run as search
from hf_finetune.search.checkpoints import choose, ranking
from hf_finetune.search.checkpoints.ranking import Ranking, _Probe, _ranked
from hf_finetune.search.recipe_variant import RecipeVariant
from hf_finetune.tasks.single_label import SingleLabel


def frame(rows: int = 60) -> pd.DataFrame:
    table = text_rows(rows).to_pandas()
    return pd.DataFrame({"review": table["text"], "stars": np.where(table["label"], "good", "bad")})


def probe(name: str, parameters: int, right: int) -> _Probe:
    """A probe that has the first rows of a hundred right."""
    scores_NC = np.tile([0.9, 0.1], (100, 1))
    scores_NC[right:] = [0.1, 0.9]
    return _Probe(name, parameters, "mean", right / 100, scores_NC, -0.5, 1.0)


@pytest.mark.parametrize(("right", "chosen"), [(95, "runs/large"), (72, "runs/small")])
def test_a_larger_one_is_chosen_only_by_a_paired_test(right: int, chosen: str) -> None:
    document = _ranked(
        [probe("runs/large", 9, right), probe("runs/small", 3, 70)], SingleLabel(("a", "b")), np.zeros(100, dtype=int)
    )
    found = Ranking(document)
    assert found.chosen == chosen and document["reason"].startswith(chosen.removeprefix("runs/"))
    assert [each["checkpoint"] for each in document["checkpoints"]] == ["runs/large", "runs/small"], "the best first"
    assert "LogME" in str(found) and "runs/" not in str(found)


def test_the_same_ranking_in_python_and_in_a_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On tiny networks with fewer rows in less time; a ranking that was written is read back."""
    small, large = (
        tiny_text_checkpoint(tmp_path / name, num_hidden_layers=n) for name, n in (("small", 1), ("large", 2))
    )
    found = rank_checkpoints(frame(), [large, small], text="review", label="stars", max_length=16)
    section = found.to_dict()
    assert section["rows"] == 54 and {each["checkpoint"] for each in section["checkpoints"]} == {str(small), str(large)}
    assert all(each["accuracy"]["n"] == 54 and each["seconds"] > 0 for each in section["checkpoints"])
    assert all(each["pooling"] in ("mean", "cls") and each["log_evidence"] < 0 for each in section["checkpoints"])
    frame().to_csv(tmp_path / "rows.csv", index=False)
    flags = ["--text", "review", "--label", "stars", "--max-length", "16", "--json"]
    main_command(["rank", str(tmp_path / "rows.csv"), str(large), str(small), *flags])
    again = json.loads(capsys.readouterr().out)
    for each in [*section["checkpoints"], *again["checkpoints"]]:
        each.pop("seconds")
    assert again == section
    data = TextData(path=str(tmp_path / "rows.csv"), text="review", label="stars", max_length=16)
    few = ranking.rank([str(small), str(large)], data, limit_s=1e-9)
    assert few.to_dict()["rows"] == 54, "never fewer than a hundred, if there are so many"
    few.write(tmp_path)
    assert Ranking.read(tmp_path) == few and Ranking.read(tmp_path / "none") is None
    (tmp_path / ranking.FILE).write_text('{"checkpoints": []}')
    with pytest.raises(InputError, match=r"candidates\.json: damaged"):
        Ranking.read(tmp_path)


@pytest.mark.parametrize("candidates", [(), ("a",), ("a", "a")])
def test_fewer_than_two_checkpoints_are_refused(candidates: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="expected two different checkpoints or more"):
        rank_checkpoints(frame(), candidates)


def test_what_has_no_candidates(tmp_path: Path) -> None:
    recipe = Recipe(name="a", data=TextData(path="x"), model=Model("m"), search=Search(candidates=("a", "b")))
    with pytest.raises(InputError, match=r"search\.candidates: expected none with method full, got a, b"):
        search.run(recipe)
    with pytest.raises(InputError, match=r"search\.ensemble: expected false with method full"):
        search.run(replace(recipe, search=Search(ensemble=True)))
    random = Recipe(
        name="a", data=TextData(path="x"), model=Model("m", from_config={}), method="auto", search=recipe.search
    )
    with pytest.raises(InputError, match=r"search\.candidates: expected none with model\.from_config"):
        choose.with_best_checkpoint(RecipeVariant(random), Launch(), limit_s=1.0)
    one, other = (str(tiny_text_checkpoint(tmp_path / name)) for name in ("one", "other"))
    words = pd.DataFrame({"words": [[str(n), "b"] for n in range(20)], "tags": [["x", "y"]] * 20})
    with pytest.raises(InputError, match="expected none with words that have tags"):
        rank_checkpoints(words, [one, other], task="tokens", text="words", label="tags")
