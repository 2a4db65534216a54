"""A run of method classical is not resumed in the folder of another run."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hf_finetune import InputError, Launch, Recipe, TextData
from hf_finetune.config.recipe import Model
from hf_finetune.pipeline.classical.run import run_classical
from hf_finetune.pipeline.context import ClassicalRun
from hf_finetune.utils.plain import to_plain


def test_another_recipe_began_the_run(tmp_path: Path) -> None:
    """Its folder would hold a network and a pipeline."""
    recipe = Recipe(name="few", data=TextData(path="rows.csv"), model=Model(checkpoint="m"), method="classical")
    splits = SimpleNamespace(fingerprint="1", labels=("a", "b"))
    record = {"recipe": {**to_plain(recipe), "method": "full"}, "fingerprint": "1"}
    (tmp_path / "recipe.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"method: the run in .* has 'full', now it is 'classical'"):
        run_classical(ClassicalRun(recipe, cast(Any, splits)), Launch(str(tmp_path), resume=True))
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.json"]
