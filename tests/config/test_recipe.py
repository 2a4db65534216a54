import dataclasses
import inspect
import typing

import pytest
from transformers import TrainingArguments

from hf_finetune import ImageData, InputError, Launch, Model, Recipe, TextData, Train
from hf_finetune.config.rules import check
from hf_finetune.utils.hints import configs_in

RECIPE = Recipe(name="a", data=TextData(path="x"), model=Model("m"))
OURS = {
    "head_warm_start",
    "head_inverse_strength",
    "head_least_explained",
    "early_stopping_patience",
    "validate_every",
    "save_every",
    "keep_checkpoints",
    "max_time",
    "fit_schedule",
    "extra",
}


def test_train_fields_are_those_of_training_arguments() -> None:
    stock = {f.name for f in dataclasses.fields(TrainingArguments)}
    assert {f.name for f in dataclasses.fields(Train)} - stock == OURS


def test_every_field_has_its_docstring() -> None:
    """The text under a field is its --help."""
    kinds = {kind for hint in typing.get_type_hints(Recipe).values() for kind in configs_in(hint)} | {Launch}
    assert {TextData, Model, Train} <= kinds
    for kind in kinds:
        lines = inspect.getsource(kind).splitlines()
        for field in dataclasses.fields(kind):
            if field.name not in vars(kind)["__annotations__"]:
                continue  # of the class above
            at = next(i for i, line in enumerate(lines) if line.startswith(f"    {field.name}:"))
            following = next(line for line in lines[at + 1 :] if line.startswith('    """') or line.startswith("    @"))
            assert following.startswith('    """'), f"{kind.__name__}.{field.name}"


def test_task_and_method() -> None:
    from peft import IA3Config, LoraConfig

    assert RECIPE.task == "text-classification"
    assert dataclasses.replace(RECIPE, data=ImageData(path="x")).task == "image-classification"
    assert RECIPE.effective_method == "full"
    assert dataclasses.replace(RECIPE, adapter=LoraConfig()).effective_method == "lora"
    assert dataclasses.replace(RECIPE, adapter=IA3Config()).effective_method == "ia3"
    assert (
        dataclasses.replace(RECIPE, adapter=IA3Config()).uses_adapter
        and dataclasses.replace(RECIPE, method="lora").uses_adapter
    )
    assert not any(dataclasses.replace(RECIPE, method=method).uses_adapter for method in ("full", "top", "head"))
    with pytest.raises(InputError, match="method: expected full or lora"):
        check(dataclasses.replace(RECIPE, method="top", adapter=LoraConfig()))


@pytest.mark.parametrize("path", ["a/words.conll", "words.jsonl.gz", "lab/words", "words.fna"])
def test_a_run_is_named_after_its_data(path: str) -> None:
    assert dataclasses.replace(RECIPE, name="").with_data(path).name == "words-full"
