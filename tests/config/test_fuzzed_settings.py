"""Files of fields with any other value, name or byte are the settings of a run, or are refused in one line."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from helpers.fuzz import DAMAGES, Damage, edits, fuzzed, result_or_one_line
from hypothesis import given
from hypothesis import strategies as st

from hf_finetune import Distill, MatchLogits, Model, Recipe, SwapWords, TextData
from hf_finetune.cli.overrides import read_config_file, with_fields
from hf_finetune.cli.run_job import RunJob
from hf_finetune.config.recipe import blank_recipe, recipe_from_plain
from hf_finetune.utils.plain import to_plain

RECIPE = Recipe(
    name="films",
    data=TextData(path="rows.csv", augment=(SwapWords(p=0.1),)),
    model=Model(checkpoint="lab/bert"),
    objective=Distill(teacher="lab/teacher", kinds=(MatchLogits(),)),
)
PLAIN = to_plain(RECIPE)
NAMES = ["type", "adapter", "extra", "train.learning_rate", "learning-rate", "data", "resume", "output", "trian", ""]


def read(file: str) -> RunJob:
    """Take the steps of `--config FILE`."""
    arguments = ["--config", file]
    return with_fields(RunJob(blank_recipe(images=False, name="films")), read_config_file(arguments), arguments)


def test_the_whole_recipe_is_read(tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("whole") / "fields.yaml"
    file.write_text(yaml.safe_dump(PLAIN))
    assert read(str(file)).recipe == recipe_from_plain(PLAIN) == RECIPE


@fuzzed(40)
@given(fields=edits(PLAIN, NAMES), as_yaml=st.booleans())
def test_any_value_in_a_file_of_fields(tmp_path_factory: pytest.TempPathFactory, fields: Any, as_yaml: bool) -> None:
    file = tmp_path_factory.mktemp("fields") / "fields.yaml"
    file.write_text(yaml.safe_dump(fields) if as_yaml else json.dumps(fields))
    result_or_one_line(lambda: read(str(file)))
    result_or_one_line(lambda: recipe_from_plain(fields))


@fuzzed(40)
@given(damages=st.lists(DAMAGES, min_size=1, max_size=3), as_yaml=st.booleans())
def test_any_byte_of_a_file_of_fields(
    tmp_path_factory: pytest.TempPathFactory, damages: list[Damage], as_yaml: bool
) -> None:
    file = tmp_path_factory.mktemp("fields") / "fields.yaml"
    content = (yaml.safe_dump(PLAIN) if as_yaml else json.dumps(PLAIN)).encode()
    for damage in damages:
        content = damage(content)
    file.write_bytes(content)
    result_or_one_line(lambda: read(str(file)))
