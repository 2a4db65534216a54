from pathlib import Path

import pytest

from hf_finetune import InputError
from hf_finetune.cli.run_job import load_recipe

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
