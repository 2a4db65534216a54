"""Recipes: their files, and those that are shipped."""

from pathlib import Path

import pytest
from helpers.command_line import leave

from hf_finetune import InputError, Model, Recipe, TextData
from hf_finetune.cli import shipped
from hf_finetune.cli.run_job import load_recipe
from hf_finetune.utils.plain import to_plain

GOOD = """
from peft import LoraConfig

from hf_finetune import Model, Recipe, TextData

def recipe():
    return Recipe(
        name="mine",
        data=TextData(path="x"),
        model=Model(checkpoint="m"),
        adapter=LoraConfig(r=4, target_modules="all-linear"),
    )
"""


def test_load_a_recipe_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(GOOD)
    recipe = load_recipe(str(path))
    assert (recipe.name, recipe.adapter.r, recipe.effective_method) == ("mine", 4, "lora")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def recipe(:\n", "mine.py, line 1: invalid syntax"),
        ("\nimport no_such_module\n", "mine.py, line 2: ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = 1\n", r"mine.py: expected a function `recipe\(\)`"),
        ("def recipe():\n    raise ValueError('two\\nlines')\n", "mine.py, line 2: ValueError: two lines$"),
        ("def recipe(x):\n    return x\n", "mine.py: TypeError: .*missing 1 required"),
        ("def recipe():\n    return 3\n", r"mine.py: recipe\(\) returned int, expected a Recipe"),
        (GOOD.replace('path="x"', 'paht="x"'), "mine.py, line 9: TextData.paht: no such field"),
        (
            GOOD.replace('path="x"', 'path="x", max_length="32"'),
            "line 9: TextData.max_length: expected a whole number, at least 4, got '32'",
        ),
    ],
)
def test_errors_in_a_recipe_file_are_one_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        load_recipe(str(path))
    assert "\n" not in str(caught.value)


def test_list_is_wrapped_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    _, out, _ = leave(capsys, "list")
    assert max(map(len, out.splitlines())) <= 80 and len(out.splitlines()) > len(shipped.names())


def test_list_shows_each_recipe_with_its_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = leave(capsys, "list")
    assert status == 0
    assert "quickstart  " in out and "MiniLM on BBC news" in out
    assert len(out.splitlines()) == len(shipped.names()) >= 5


def test_cp_copies_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "mine.py"
    assert leave(capsys, "cp", "sst2_lora", str(target))[0] == 0
    assert target.read_text() == shipped.names()["sst2_lora"].read_text()
    status, _, err = leave(capsys, "cp", "sst2_lora", str(target))
    assert status == 2 and "exists already" in err[0]
    status, _, err = leave(capsys, "cp", "sst2_lorra", str(tmp_path))
    assert status == 2 and "did you mean 'sst2_lora'" in err[0]
    assert leave(capsys, "cp", "cpu-2.yaml", str(tmp_path))[0] == 0
    assert "num_processes: 2" in (tmp_path / "cpu-2.yaml").read_text()


def test_recipes_are_found_by_folder_and_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shipped.find("text/sst2_lora") == shipped.find("sst2_lora")
    assert shipped.is_known("text/sst2_lora") and not shipped.is_known("vision/sst2_lora")
    status, _, err = leave(capsys, "cp", "vision/sst2_lora", str(tmp_path))
    assert status == 2 and "vision/sst2_lora: no recipe of this name; did you mean 'sst2_lora'?" in err[0]


@pytest.mark.parametrize("name", sorted(shipped.names()))
def test_every_shipped_recipe_is_valid(name: str) -> None:
    from hf_finetune.config.rules import check
    from hf_finetune.search.recipe_variant import RecipeVariant
    from hf_finetune.utils.plain import merge

    recipe = load_recipe(name)
    variant = RecipeVariant(recipe)
    check(variant.for_rung("full").recipe if variant.climbs else recipe)
    blank = Recipe(name="", data=TextData(path=""), model=Model(checkpoint=""))
    assert merge(blank, to_plain(recipe)) == recipe
    assert len(shipped.names()[name].read_text().splitlines()) <= 56


@pytest.mark.parametrize("path", sorted((shipped.folder() / "accelerate").glob("*.yaml")), ids=lambda p: p.stem)
def test_accelerate_configs_parse(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_processes == (2 if path.stem in ("cpu-2", "multi-gpu") else 1)
    assert config.use_cpu == path.stem.startswith("cpu")
    assert config.mixed_precision == {"bf16": "bf16", "fp16": "fp16", "multi-gpu": "bf16"}.get(path.stem, "no")
