"""Damaged recipe.json and result.json are refused in one line by the card and by a push."""

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
from helpers.damage import DOCUMENTS
from helpers.hub_run import RECIPE, RESULT, write_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_finetune.config.recipe import recipe_from_plain
from hf_finetune.errors import RunError
from hf_finetune.hub.card import render_again
from hf_finetune.hub.contents import collect
from hf_finetune.utils.plain import to_plain

EXAMPLES = int(os.environ.get("HF_FINETUNE_FUZZ_EXAMPLES", "40"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


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


def paths(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the places of all values in nested JSON."""
    parts = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path, *(below for key, value in parts for below in paths(value, (*path, key)))]


def replaced(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return nested JSON with another value in one place."""
    if not path:
        return value
    content = copy.copy(content)
    content[path[0]] = replaced(content[path[0]], path[1:], value)
    return content


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(paths(RESULT)), value=JSON)
def test_a_result_with_any_other_value_makes_a_card_or_is_refused(run: Path, path: tuple[Any, ...], value: Any) -> None:
    (run / "result.json").write_text(json.dumps(replaced(RESULT, path, value)))
    for use in (render_again, lambda folder: collect(folder, "me/model")):
        try:
            use(run)
        except RunError as error:
            assert "\n" not in str(error)


@settings(max_examples=EXAMPLES, deadline=None)
@given(path=st.sampled_from(paths(to_plain(RECIPE))), value=JSON)
def test_a_recipe_with_any_other_value_is_a_recipe_or_refused(path: tuple[Any, ...], value: Any) -> None:
    try:
        recipe_from_plain(replaced(to_plain(RECIPE), path, value))
    except RunError as error:
        assert "\n" not in str(error)
