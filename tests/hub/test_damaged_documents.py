"""Damaged recipe.json and result.json are refused in one line by the card and by a push."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.damage import DOCUMENTS
from helpers.fuzz import DAMAGES, EXTREME, JSON, Damage, fuzzed, paths, replaced, result_or_one_line
from helpers.hub_run import RECIPE, RESULT, write_run
from hypothesis import given
from hypothesis import strategies as st

from hf_finetune.config.recipe import recipe_from_plain
from hf_finetune.errors import RunError
from hf_finetune.hub.card import render_again
from hf_finetune.hub.contents import collect
from hf_finetune.utils.plain import to_plain


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "run")


@pytest.mark.parametrize("file", ["recipe.json", "result.json"])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_damaged_documents(tmp_path: Path, file: str, name: str) -> None:
    folder = write_run(tmp_path / "run")
    (folder / file).write_bytes(DOCUMENTS[name])
    for use in (render_again, lambda folder: collect(folder, "me/model")):
        with pytest.raises(RunError) as caught:
            use(folder)
        assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@fuzzed(40)
@given(path=st.sampled_from(paths(RESULT)), value=JSON | EXTREME)
def test_a_result_with_any_other_value_makes_a_card_or_is_refused(run: Path, path: tuple[Any, ...], value: Any) -> None:
    (run / "result.json").write_text(json.dumps(replaced(RESULT, path, value)))
    result_or_one_line(lambda: render_again(run), RunError)
    result_or_one_line(lambda: collect(run, "me/model"), RunError)


@fuzzed(40)
@given(path=st.sampled_from(paths(to_plain(RECIPE))), value=JSON | EXTREME)
def test_a_recipe_with_any_other_value_is_a_recipe_or_refused(path: tuple[Any, ...], value: Any) -> None:
    result_or_one_line(lambda: recipe_from_plain(replaced(to_plain(RECIPE), path, value)))


@fuzzed(25)
@given(file=st.sampled_from(["recipe.json", "result.json"]), damage=DAMAGES)
def test_any_byte_of_a_document_changed(run: Path, file: str, damage: Damage) -> None:
    documents = {"recipe.json": json.dumps({"recipe": to_plain(RECIPE)}), "result.json": json.dumps(RESULT)}
    for name, text in documents.items():
        (run / name).write_bytes(damage(text.encode()) if name == file else text.encode())
    result_or_one_line(lambda: render_again(run), RunError)
    result_or_one_line(lambda: collect(run, "me/model"), RunError)
