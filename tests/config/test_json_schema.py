import json

import pytest
from jsonschema import Draft202012Validator, ValidationError

from hf_finetune import Recipe
from hf_finetune.cli import shipped
from hf_finetune.cli.main import main_command
from hf_finetune.cli.run_job import load_recipe
from hf_finetune.config.json_schema import json_schema
from hf_finetune.utils.files import parse_yaml
from hf_finetune.utils.plain import to_plain

VALIDATOR = Draft202012Validator(json_schema(Recipe))


def test_shipped_recipes_are_valid() -> None:
    Draft202012Validator.check_schema(json_schema(Recipe))
    for name in shipped.names():
        VALIDATOR.validate(to_plain(load_recipe(name)))


@pytest.mark.parametrize(
    "text",
    [
        "{train: {learning_rate: 1e-4}, data: {augment: [Eda, {type: OneOf, choices: [SwapWords, {type: Aeda, p: 0.2}]}]}}",
        "{optim: {optimizer: Lion}, objective: {type: Distill, teacher: runs/a, kinds: [{type: SoftTargets, weight: {start: 1, end: 0}}]}}",
        "{adapter: {peft_type: LORA, r: 4}, model: {surgery: [{type: KeepLayers, layers: [0, 3]}]}, pretrain: {objective: null}}",
    ],
)
def test_what_a_file_can_say(text: str) -> None:
    VALIDATOR.validate(parse_yaml(text))


@pytest.mark.parametrize(
    "text",
    [
        "{train: {learning_rate: 0}}",
        "{train: {learning_rat: 1e-4}}",
        "{data: {augment: [Flipp]}}",
        "{data: {augment: [{type: SwapWords, p: 2}]}}",
        "{method: lorra}",
        "{objective: {type: Distil, teacher: x}}",
    ],
)
def test_what_an_editor_marks(text: str) -> None:
    with pytest.raises(ValidationError):
        VALIDATOR.validate(parse_yaml(text))


def test_fields_are_documented(capsys: pytest.CaptureFixture[str]) -> None:
    main_command(["schema"])
    schema = json.loads(capsys.readouterr().out)
    assert schema["$schema"].endswith("2020-12/schema")
    for name in ("Train", "TextData", "Distill", "SwapWords"):
        fields = schema["$defs"][name]["properties"]
        assert all("description" in field for field in fields.values() if "const" not in field), name
