"""Old names of fields, flags and operations go on working."""

import dataclasses

import pytest

import hf_finetune
from hf_finetune import ImageData, Model, Recipe, TextData
from hf_finetune.cli.overrides import parse_run
from hf_finetune.cli.run_job import RunJob
from hf_finetune.config.aliases import FIELDS, TYPES, current, current_flags
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
    ],
)
def test_old_flags(old: list[str], new: list[str]) -> None:
    assert current_flags(old) == new


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
