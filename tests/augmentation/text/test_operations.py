"""The contract of operations on texts: one battery that every one of them passes. Their values: test_values.py."""

import copy
import dataclasses
import importlib.metadata
import pickle
import typing
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_finetune import InputError, Model, Recipe, TextData
from hf_finetune.augmentation.compose import Sometimes
from hf_finetune.augmentation.generative.base import GenerativeOperation
from hf_finetune.augmentation.operations import Graded, Population, TextBatch, generators
from hf_finetune.augmentation.text.base import PerWord
from hf_finetune.augmentation.text.characters import ChangeCase
from hf_finetune.augmentation.text.operations import LanguageOperation, TextOperation
from hf_finetune.augmentation.text.pairs import SwapPair
from hf_finetune.augmentation.text.presets import Eda
from hf_finetune.augmentation.text.sentences import MixHalves, ShuffleSentences
from hf_finetune.augmentation.text.words import InsertWords, ReplaceSynonyms, SwapWords
from hf_finetune.config.rules import check
from hf_finetune.utils.plain import merge, to_plain

# Where a share of 0.6 and the defaults of the other fields do not suit.
ARGUMENTS: dict[type, dict[str, Any]] = {
    InsertWords: {"p": 0.2},
    Eda: {"alpha": 0.2},
    ChangeCase: {"p": 0.5, "to": "upper"},
}
# SubstituteByModel and BackTranslate need a checkpoint: tests/augmentation/generative/ has theirs. SwapPair is not for
# single texts: test_pairs.py. Operations on sequences do not read texts of words: test_sequences.py.
KINDS = [kind for kind in typing.get_args(LanguageOperation) if not issubclass(kind, GenerativeOperation | SwapPair)]


def unusual(kind: type) -> TextOperation:
    """An operation without its defaults, so that what is lost on the way through a file is seen."""
    keep = {"keep": "numbers"} if "keep" in {f.name for f in dataclasses.fields(kind)} else {}
    return kind(**ARGUMENTS.get(kind, {"p": 0.6}), **keep)


BATTERY = [unusual(kind) for kind in KINDS]
every_operation = pytest.mark.parametrize("operation", BATTERY, ids=lambda o: type(o).__name__)

TEXTS = [
    "The acting was great. Every minute of it  made me laugh! Go and see this film.",
    "A dull story, told\tslowly. Nobody cared for 2 hours. We left early.",
    "Beautiful pictures and a clever plot. My sister loved it. Ten out of 10.",
    "Terrible movie.\nThe hero sleeps for most of it. What a waste of money!",
    "Über schöne Bilder. И хорошая музыка. Nice ending, good cast.",
    "Boring from the start. Then it gets worse. Do not watch this film.",
]
LABELS = np.array([1, 0, 1, 0, 1, 0])
BATCH = TextBatch(TEXTS, None, LABELS, Population(("bad", "good"), LABELS, TEXTS))
TOO_SHORT = ["", " ", "word", "  word\n", "好。", "😀"]


def strength(operation: TextOperation) -> str:
    """The field that is 0 when nothing is to change."""
    return "alpha" if isinstance(operation, Eda) else "p"


def observed(operation: TextOperation, text: str, times: int = 200) -> set[str]:
    """What becomes of a text in many epochs."""
    return {operation(TextBatch([text]), generators(0, [0], epoch)).texts[0] for epoch in range(times)}


def test_no_operation_of_the_battery_is_the_default() -> None:
    assert all(o != type(o)() for o in BATTERY)


@every_operation
def test_number_of_texts_and_labels_stay_and_input_is_not_modified(operation: TextOperation) -> None:
    before = copy.deepcopy(BATCH)
    after = operation(BATCH, generators(0, range(6), 0))
    assert isinstance(after, TextBatch) and len(after) == 6 and after.pairs is None
    assert all(isinstance(text, str) and text.strip() for text in after.texts)
    assert after.texts != TEXTS and after.labels.tolist() == LABELS.tolist() and after.population is BATCH.population
    assert BATCH.texts == before.texts and BATCH.labels.tolist() == before.labels.tolist()


@every_operation
def test_a_view_depends_on_seed_row_epoch_and_view_alone(operation: TextOperation) -> None:
    def views(rows: list[int], seed: int = 0, epoch: int = 0, view: int = 0) -> list[str]:
        return operation(BATCH.take(np.array(rows)), generators(seed, rows, epoch, view)).texts

    whole = views(list(range(6)))
    assert views(list(range(6))) == whole
    assert [views([row])[0] for row in range(6)] == whole, "whoever else is in the batch"
    assert views([4, 1, 3]) == [whole[row] for row in (4, 1, 3)]
    assert whole not in (views(list(range(6)), **{name: 1}) for name in ("seed", "epoch", "view"))


@every_operation
def test_nothing_changes_at_strength_0(operation: TextOperation) -> None:
    off = dataclasses.replace(operation, **{strength(operation): 0.0})
    assert [off(BATCH, generators(0, range(6), epoch)).texts for epoch in range(5)] == [TEXTS] * 5


@every_operation
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_out_of_range_names_operation_field_range_and_value(operation: TextOperation, value: float) -> None:
    name = strength(operation)
    with pytest.raises(InputError, match=rf"^{type(operation).__name__}.{name}: expected .*, got {value}"):
        dataclasses.replace(operation, **{name: value})


@every_operation
def test_unknown_choices_are_refused(operation: TextOperation) -> None:
    for name in {"keep", "to", "source"} & {f.name for f in dataclasses.fields(operation)}:
        with pytest.raises(InputError, match=rf"^{type(operation).__name__}.{name}: expected one of .*, got 'nubmers'"):
            dataclasses.replace(operation, **{name: "nubmers"})


@every_operation
def test_pickled_for_workers(operation: TextOperation) -> None:
    again = pickle.loads(pickle.dumps(operation))
    assert again == operation
    assert again(BATCH, generators(0, range(6), 0)).texts == operation(BATCH, generators(0, range(6), 0)).texts


@every_operation
def test_json_round_trip(operation: TextOperation) -> None:
    recipe = Recipe(name="a", data=TextData(path="x", augment=(operation, Sometimes(operation, 0.2))), model=Model("m"))
    plain = yaml.safe_load(yaml.safe_dump(to_plain(recipe)))
    assert plain["data"]["augment"][0]["type"] == type(operation).__name__
    empty = Recipe(name="", data=TextData(path=""), model=Model(""))
    assert merge(empty, plain) == recipe
    named = merge(recipe, {"data": {"augment": [type(operation).__name__]}})
    assert named.data.augment == (type(operation)(),), "a bare name is the operation with its defaults"


@every_operation
def test_short_texts_stay_unchanged(operation: TextOperation) -> None:
    """What changes each word on its own needs no second word; everything else does."""
    labels = np.zeros(len(TOO_SHORT), int)
    batch = TextBatch(TOO_SHORT, None, labels, Population(("bad",), labels, TOO_SHORT))
    full = dataclasses.replace(operation, **{strength(operation): 1.0})
    for epoch in range(20):
        after = full(batch, generators(0, range(len(TOO_SHORT)), epoch)).texts
        if isinstance(operation, PerWord):
            after[2:4] = TOO_SHORT[2:4]
        assert after == TOO_SHORT


@every_operation
def test_never_empty_at_full_strength(operation: TextOperation) -> None:
    full = dataclasses.replace(operation, **{strength(operation): 1.0})
    for epoch in range(20):
        assert all(text.strip() for text in full(BATCH, generators(0, range(6), epoch)).texts)


@every_operation
@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=60), epoch=st.integers(0, 100))
def test_arbitrary_characters(operation: TextOperation, text: str, epoch: int) -> None:
    """No text is too odd; none becomes empty, and at strength 0 every character stays."""
    labels = np.zeros(2, int)
    batch = TextBatch([text, "two words"], None, labels, Population(("bad",), labels, [text, "two words"]))
    full, off = (dataclasses.replace(operation, **{strength(operation): value}) for value in (1.0, 0.0))
    assert bool(full(batch, generators(0, range(2), epoch)).texts[0].strip()) == bool(text.strip())
    assert off(batch, generators(0, range(2), epoch)).texts == batch.texts


@every_operation
def test_pairs_change_as_two_texts(operation: TextOperation) -> None:
    firsts, seconds = TEXTS[:3], [*TEXTS[3:5], ""]
    batch = TextBatch(firsts, seconds, LABELS[:3], BATCH.population)
    if isinstance(operation, MixHalves):
        with pytest.raises(InputError, match=r"MixHalves: expected rows of one text, got pairs"):
            operation(batch, generators(0, range(3), 0))
        return
    after = [operation(batch, generators(0, range(3), epoch)) for epoch in range(10)]
    assert any(a.texts[0] != firsts[0] for a in after) and any(a.pairs[0] != seconds[0] for a in after)
    assert all(a.pairs[2] == "" for a in after)
    alone = operation(TextBatch(firsts, None, LABELS[:3], BATCH.population), generators(0, range(3), 0))
    assert after[0].texts == alone.texts, "the first text as without a second"


@pytest.mark.parametrize("operation", [o for o in BATTERY if hasattr(o, "keep")], ids=lambda o: type(o).__name__)
@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ("numbers", {"350", "1,000.5", "B2B"}),
        ("entities", {"350", "1,000.5", "B2B", "Mark", "O'Neill,", "@bob", "#fun", "www.a.org", "x.org/y", "a@b.de"}),
    ],
)
def test_keep(operation: TextOperation, keep: str, kept: set[str]) -> None:
    text = (
        "Yesterday Mark paid 350 or 1,000.5 to O'Neill, @bob and a@b.de for B2B on www.a.org or x.org/y with much #fun"
    )
    words = text.split()
    full = dataclasses.replace(operation, **{strength(operation): 1.0, "keep": keep})
    expected = [word for word in words if word in kept]
    results = observed(full, text, 100)
    assert results != {text}
    assert all([word for word in result.split() if word in kept] == expected for result in results), "in their order"
    if keep == "entities":
        results = observed(dataclasses.replace(full, keep="nothing"), text, 100)
        assert any([word for word in result.split() if word in kept] != expected for result in results)


@pytest.mark.parametrize(
    "operation",
    [o for o in BATTERY if isinstance(o, InsertWords | ReplaceSynonyms | Eda)],
    ids=lambda o: type(o).__name__,
)
def test_missing_synonym_package_is_refused(operation: TextOperation, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    message = rf"{type(operation).__name__}: expected .*pip install 'hf_finetune\[augment\]'"
    with pytest.raises(InputError, match=message):
        operation(BATCH, generators(0, range(6), 0))
    recipe = Recipe(name="a", data=TextData(path="x", augment=(Sometimes(operation),)), model=Model("m"))
    with pytest.raises(InputError, match=message):
        check(recipe)
    off = dataclasses.replace(operation, **{strength(operation): 0.0})
    check(dataclasses.replace(recipe, data=TextData(path="x", augment=(off, InsertWords(source="text")))))


def test_from_strength() -> None:
    assert SwapWords.from_strength(0.2) == SwapWords(0.06) and ShuffleSentences.from_strength(0.4) == ShuffleSentences(
        0.4
    )
    assert all(type(kind.from_strength(1.0)) is kind for kind in KINDS if issubclass(kind, Graded))
