"""Configs are frozen dataclasses that hold nothing out of their types and bounds."""

import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import hf_finetune
from hf_finetune import AdamW, Distill, InputError, Launch, Model, OneOf, Ramp, Recipe, SoftTargets, SwapWords, TextData
from hf_finetune.utils.hints import configs_below
from hf_finetune.utils.plain import merge

RECIPE = Recipe("a", TextData("x", augment=(OneOf((SwapWords(0.2), SwapWords())),)), Model("m"))


def test_a_config_is_a_frozen_dataclass() -> None:
    assert repr(SwapWords(0.2)) == "SwapWords(p=0.2, keep='nothing')"
    assert SwapWords(0.2) == SwapWords(p=0.2) != SwapWords() and hash(SwapWords(0.2)) == hash(SwapWords(p=0.2))
    assert dataclasses.replace(SwapWords(0.2), keep="numbers") == SwapWords(0.2, "numbers")
    assert pickle.loads(pickle.dumps(RECIPE)) == RECIPE
    with pytest.raises(dataclasses.FrozenInstanceError):
        SwapWords().p = 0.3  # type: ignore[misc]


def test_types_are_strict_but_for_what_files_write() -> None:
    assert repr(Ramp(1, 0)) == "Ramp(start=1.0, end=0.0, form='linear')"
    assert TextData("x", augment=["SwapWords", {"type": "SwapWords", "p": 0.2}]).augment == (
        SwapWords(),
        SwapWords(0.2),
    )  # type: ignore[arg-type, list-item]
    assert Distill(teacher="t", kinds=[{"type": "SoftTargets", "weight": {"start": 1, "end": 0}}]).kinds == (  # type: ignore[arg-type, list-item]
        SoftTargets(weight=Ramp(1.0, 0.0)),
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SwapWords(2.0), "SwapWords.p: expected 0 to 1, got 2.0"),
        (lambda: SwapWords(True), "SwapWords.p: expected a number, 0 to 1, got True"),
        (lambda: SwapWords("0.1"), "SwapWords.p: expected a number, 0 to 1, got '0.1'"),
        (lambda: SwapWords(p=float("nan")), "SwapWords.p: expected a finite number, got nan"),
        (lambda: SwapWords(q=0.1), "SwapWords.q: no such field; "),
        (lambda: SwapWords(keep="all"), "SwapWords.keep: expected one of nothing, numbers, entities, got 'all'"),
        (lambda: AdamW(0.9, 1.0), "AdamW.beta2: expected at least 0 and below 1, got 1.0"),
        (lambda: TextData(), "TextData.path"),
        (lambda: TextData("x", max_length=64.0), "TextData.max_length: expected a whole number, at least 4, got 64.0"),
        (lambda: TextData("x", augment=(hf_finetune.Flip(),)), "TextData.augment[0].type: expected one of SwapWords, "),
        (lambda: OneOf(()), "OneOf.choices: expected "),
        (lambda: Ramp(0.0, 1.0, "square"), "Ramp.form: expected one of linear, cosine, got 'square'"),
    ],
)
def test_an_invalid_value_is_reported_on_one_line(make: Callable[[], Any], message: str) -> None:
    with pytest.raises((InputError, TypeError)) as caught:
        make()
    assert "path" in str(caught.value) if message == "TextData.path" else str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_defaults_are_valid() -> None:
    """A config constructed without arguments is not validated."""
    for kind in {**configs_below(Recipe), **configs_below(Launch)}.values():
        fields = dataclasses.fields(kind)
        if all(f.default is not f.default_factory for f in fields):  # every field has a default
            assert merge(kind(), {}) == kind(), kind
