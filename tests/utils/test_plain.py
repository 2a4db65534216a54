import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from peft import LoraConfig

from hf_finetune import ImageData, InputError, Model, Recipe, Supervised, TextData, Train
from hf_finetune.augmentation.compose import Compose, OneOf, Sometimes
from hf_finetune.augmentation.text.presets import Eda
from hf_finetune.augmentation.text.words import SwapWords
from hf_finetune.distillation.weight_schedules import Ramp
from hf_finetune.models.surgery.layers import KeepLayers
from hf_finetune.models.surgery.stochastic_depth import StochasticDepth
from hf_finetune.utils.config import validated
from hf_finetune.utils.files import parse_yaml, write_json
from hf_finetune.utils.plain import merge, short_repr, to_plain

TEXT = Recipe(name="a", data=TextData(path="x", text="sentence"), model=Model("m"))
BLANK = Recipe(name="", data=TextData(path=""), model=Model(checkpoint=""))


@pytest.mark.parametrize(
    "recipe",
    [
        TEXT,
        replace(TEXT, adapter=LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"])),
        replace(TEXT, adapter=LoraConfig(target_modules="all-linear")),
        replace(TEXT, train=Train(learning_rate=1e-4, extra={"adam_beta2": 0.98}), objective=Supervised(0.1)),
        Recipe(name="b", data=ImageData(path="y", image="picture"), model=Model("m", frozen_layers=2), method="head"),
    ],
)
def test_there_and_back_through_json(recipe: Recipe) -> None:
    plain = json.loads(json.dumps(to_plain(recipe)))
    assert merge(BLANK, plain) == recipe


def test_union_members_carry_their_type() -> None:
    assert to_plain(TEXT)["data"]["type"] == "TextData"
    assert "type" not in to_plain(TEXT)["model"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"learning_rat": 1}}, "train.learning_rat: no such field, did you mean 'learning_rate'"),
        ({"nonsense": 1}, "nonsense: no such field; known fields: name, data"),
        ({"train": {"seed": "x"}}, "train.seed: expected a whole number.* got 'x'"),
        ({"train": {"seed": True}}, "train.seed: expected a whole number.* got True"),
        ({"train": 3}, "train: expected a mapping of fields, got 3"),
        ({"method": "lorra"}, "method: expected one of full, lora, top, head, classical, auto, got 'lorra'"),
        ({"data": {"type": "os.system", "path": "x"}}, "data.type: expected one of TextData, ImageData"),
        ({"data": {"type": "ImageData"}}, "data.path: this field is needed by ImageData"),
        ({"train": None}, "train: expected a mapping of fields, got None"),
        (
            {"adapter": ["LORA"]},
            "adapter: expected a PEFT config like LoraConfig.* got .'LORA'",
        ),
        ({"adapter": {"r": 4}}, "adapter: expected a PEFT config"),
        ({"adapter": {"peft_type": "NOPE"}}, "adapter.peft_type: expected one of"),
        ({"adapter": {"peft_type": "LORA", "rr": 3}}, "adapter.rr: no such field, did you mean 'r'"),
    ],
)
def test_bad_fields_are_named(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        merge(TEXT, changes)


def test_a_list_of_operations_keeps_their_names() -> None:
    """Which Python takes where a tuple is meant."""
    listed = Recipe("x", TextData("x", augment=[Compose([SwapWords(), Eda()])]), Model("m"))
    plain = to_plain(listed)
    assert plain["data"]["augment"][0]["steps"][0] == {"type": "SwapWords", "p": 0.1, "keep": "nothing"}
    assert merge(BLANK, plain).data.augment == (Compose((SwapWords(), Eda())),)


def test_yaml_spellings() -> None:
    text = "{train: {learning-rate: 1e-4, num_train_epochs: 2}, data: {max_length: 64}}"
    merged = merge(TEXT, parse_yaml(text))
    assert merged.train.learning_rate == 1e-4 and merged.train.num_train_epochs == 2.0
    assert merged.data == replace(TEXT.data, max_length=64)


def test_numbers_that_may_change_and_pairs() -> None:
    """A number stays one; a mapping is what changes it. A tuple of a given length is no list of any."""
    number, pairs = float | Ramp, Literal["all"] | tuple[tuple[int, int], ...]
    assert [validated(x, number, "x") for x in (1, 1e-4)] == [1.0, 1e-4]
    assert validated({"start": 1, "end": 0}, number, "x") == Ramp(1.0, 0.0)
    assert validated([[1, 2], [3, 4]], pairs, "x") == ((1, 2), (3, 4)) and validated("all", pairs, "x") == "all"
    for value, hint, said in (
        ("low", number, "x: expected a number or a mapping of fields, got 'low'"),
        ({"start": 1}, number, "x.end: this field is needed"),
        ([[1, 2, 3]], pairs, r"x.0.: expected a list of 2, each a whole number, got .1, 2, 3."),
        ([[1, "b"]], pairs, r"x.0..1.: expected a whole number, got 'b'"),
        ("some", pairs, "x: expected one of all or a list, each a list of 2, each a whole number, got 'some'"),
    ):
        with pytest.raises(InputError, match=said):
            validated(value, hint, "x")


def test_write_is_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_spelled_without_defaults() -> None:
    assert short_repr(KeepLayers(first=3)) == "KeepLayers(first=3)"
    assert short_repr(StochasticDepth(0.1, "constant")) == "StochasticDepth(rate=0.1, schedule='constant')"
    assert short_repr(OneOf((SwapWords(0.2), SwapWords()), (1.0, 2.0))) == (
        "OneOf(choices=(SwapWords(p=0.2), SwapWords()), weights=(1.0, 2.0))"
    )
    assert short_repr(Compose((SwapWords(),))) == "Compose(steps=(SwapWords(),))"
    assert short_repr(Sometimes(SwapWords(), p=0.25)) == "Sometimes(operation=SwapWords(), p=0.25)"
