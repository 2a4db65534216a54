"""Old names of fields, flags and operations go on working."""

import dataclasses
import warnings
from types import SimpleNamespace
from typing import Any

import pytest

import hf_finetune
from hf_finetune import ImageData, InputError, Launch, Model, Recipe, TextData
from hf_finetune.cli.overrides import parse_run
from hf_finetune.cli.run_job import RunJob
from hf_finetune.config.aliases import FIELDS, NAMES, TYPES, current, current_flags
from hf_finetune.config.keywords import field_names
from hf_finetune.config.recipe import recipe_from_plain
from hf_finetune.utils.plain import merge, to_plain

TEXT = Recipe(name="a", data=TextData("x"), model=Model("m"))
IMAGE = Recipe(name="a", data=ImageData("x"), model=Model("m"))


@pytest.mark.parametrize(
    ("old", "new", "recipe"),
    [
        ({"data": {"unlabelled": ["b"]}}, {"data": {"unlabeled": ["b"]}}, TEXT),
        ({"data": {"augment": ["Colour"]}}, {"data": {"augment": ["ColorJitter"]}}, IMAGE),
        (
            {"data": {"augment": [{"type": "Sequence", "steps": ["Colour"]}]}},
            {"data": {"augment": [{"type": "Compose", "steps": ["ColorJitter"]}]}},
            IMAGE,
        ),
        (
            {"data": {"augment": [{"type": "OneOf", "choices": [{"type": "Colour", "hue": 0.1}]}]}},
            {"data": {"augment": [{"type": "OneOf", "choices": [{"type": "ColorJitter", "hue": 0.1}]}]}},
            IMAGE,
        ),
        (
            {"data": {"augment": [{"type": "ThreeAugment", "colour": 0.1}]}},
            {"data": {"augment": [{"type": "ThreeAugment", "color_jitter": 0.1}]}},
            IMAGE,
        ),
        (
            {"pretrain": {"objective": {"type": "MAE", "normalise": False}}},
            {"pretrain": {"objective": {"type": "MAE", "normalize": False}}},
            IMAGE,
        ),
        ({"pretrain": {"objective": {"normalise": False}}}, {"pretrain": {"objective": {"normalize": False}}}, None),
    ],
)
def test_old_names_in_files(old: dict, new: dict, recipe: Recipe | None) -> None:
    assert current(old) == new == current(new)
    if recipe is not None:
        assert recipe_from_plain({**to_plain(recipe), **{"name": "b"}}).name == "b"
        assert merge(recipe, current(old)) == merge(recipe, new) != recipe


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["--unlabelled", "b.csv"], ["--unlabeled", "b.csv"]),
        (["--data.unlabelled=b.csv"], ["--data.unlabeled=b.csv"]),
        (["--pretrain.objective.no-normalise"], ["--pretrain.objective.no-normalize"]),
        (["--data.augment.0.colour", "0.1"], ["--data.augment.0.color-jitter", "0.1"]),
        (["--data.augment", "[Flip]", "unlabelled"], ["--data.augment", "[Flip]", "unlabelled"]),
        (
            ["--max_length=64", "my_file", "--data.image_root", "a_b"],
            ["--max-length=64", "my_file", "--data.image-root", "a_b"],
        ),
        (["--lr", "1", "--text_column=a_b"], ["--learning-rate", "1", "--text=a_b"]),
    ],
)
def test_old_flags(old: list[str], new: list[str]) -> None:
    assert current_flags(old) == new


def test_own_flags_of_a_command_stay() -> None:
    assert current_flags(["--batch_size", "8"], {"batch_size"}) == ["--batch-size", "8"]
    assert current_flags(["--batch_size", "8"]) == ["--per-device-train-batch-size", "8"]


@pytest.mark.parametrize(
    ("flags", "field", "value"),
    [
        ("--lr 1e-4", "train.learning_rate", 1e-4),
        ("--learning_rate=1e-4", "train.learning_rate", 1e-4),
        ("--batch-size 8", "train.per_device_train_batch_size", 8),
        ("--weight-decay 0.1", "train.weight_decay", 0.1),
        ("--warmup 0.1", "train.warmup_steps", 0.1),
        ("--num-epochs 2", "train.num_train_epochs", 2.0),
        ("--no-head-warm-start", "train.head_warm_start", False),
        ("--text-column a", "data.text", "a"),
        ("--label_column a", "data.label", "a"),
        ("--augment [SwapWords]", "data.augment", (hf_finetune.SwapWords(),)),
        ("--r 4", "lora.r", 4),
    ],
)
def test_flags_need_no_section(flags: str, field: str, value: object) -> None:
    changed: Any = parse_run(RunJob(TEXT), flags.split(), "x").recipe
    for part in field.split("."):
        changed = getattr(changed, part)
    assert changed == value


def test_a_name_of_several_fields_is_refused() -> None:
    message = "^--license: several fields have this name; write --data.license or --hub.license$"
    with pytest.raises(InputError, match=message):
        parse_run(RunJob(TEXT), ["--license", "mit"], "x")


def test_names_of_other_tools_are_no_names_of_ours() -> None:
    ours = {*field_names(TEXT), *field_names(IMAGE), *(field.name for field in dataclasses.fields(Launch))}
    assert set(NAMES.values()) <= ours and not set(NAMES) & ours


def test_a_command_takes_old_and_new() -> None:
    taught = dataclasses.replace(TEXT, objective=hf_finetune.Distill(teacher="big"))
    for flags in ("--unlabelled b.csv", "--unlabeled b.csv"):
        assert parse_run(RunJob(taught), flags.split(), "x").recipe.data.unlabeled == ("b.csv",)
    job = parse_run(RunJob(IMAGE), ["--data.augment", "[Colour]"], "x")
    assert job.recipe.data.augment == (hf_finetune.ColorJitter(),)


def test_old_names_in_python() -> None:
    assert hf_finetune.Sequence is hf_finetune.Compose
    assert hf_finetune.Colour is hf_finetune.ColorJitter


def test_every_new_name_exists() -> None:
    assert set(TYPES.values()) <= set(hf_finetune.__all__) and not set(TYPES) & set(hf_finetune.__all__)
    for old, new in FIELDS.items():
        kind = old.rpartition(".")[0]
        if kind[:1].isupper():
            names = {f.name for f in dataclasses.fields(getattr(hf_finetune, kind))}
            assert new in names and old.rpartition(".")[2] not in names


def test_an_import_in_a_notebook_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """tqdm, which the libraries import, asks for ipywidgets."""

    def imports(module: str) -> SimpleNamespace:
        warnings.warn("IProgress not found. Please update jupyter and ipywidgets.", stacklevel=2)
        return SimpleNamespace(train=module)

    monkeypatch.setattr("importlib.import_module", imports)
    assert hf_finetune.__getattr__("train") == "hf_finetune.search.fine_tuning"


@pytest.mark.parametrize("plain", [None, [], "a", 3])
def test_what_is_no_recipe_is_refused(plain: object) -> None:
    with pytest.raises(InputError):
        recipe_from_plain(plain)
