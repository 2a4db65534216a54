"""Operations that ask language models: what they ask, and what they make of the answers."""

import pickle

import numpy as np
import pytest
from datasets import Dataset

from hf_finetune.augmentation.compose import OneOf, Sometimes, generative_operations
from hf_finetune.augmentation.generative.back_translation import BackTranslate
from hf_finetune.augmentation.generative.base import GenerativeOperation
from hf_finetune.augmentation.generative.masked_lm import SubstituteByModel
from hf_finetune.augmentation.operations import TextBatch, apply, generators
from hf_finetune.augmentation.test_time import SeveralViews
from hf_finetune.augmentation.text.words import SwapWords
from hf_finetune.errors import InputError

OPERATIONS = [SubstituteByModel("bert"), BackTranslate("en-de", "de-en")]


def numbered(operation: GenerativeOperation, texts, seeds) -> list[str]:
    """In place of a model: the text and its seed."""
    return [f"{text} {seed}" for text, seed in zip(texts, seeds, strict=True)]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_text_depends_on_its_row_alone(operation: GenerativeOperation) -> None:
    texts, labels = ["one", "two", "three"], np.array([0, 1, 0])
    batch = operation(TextBatch(texts, labels=labels, paraphrase=numbered), generators(0, [4, 7, 9], 0, 1))
    assert batch.labels is labels and [text.split()[0] for text in batch.texts] == texts
    assert len({text.split()[1] for text in batch.texts}) == 3
    alone = operation(TextBatch(["two"], paraphrase=numbered), generators(0, [7], 0, 1)).texts
    assert alone == batch.texts[1:2]
    for other in ((1, [7], 0, 1), (0, [8], 0, 1), (0, [7], 1, 1), (0, [7], 0, 2)):
        assert operation(TextBatch(["two"], paraphrase=numbered), generators(*other)).texts != alone


@pytest.mark.parametrize("operation", OPERATIONS)
def test_second_texts_have_their_own_seeds_unless_empty(operation: GenerativeOperation) -> None:
    changed = operation(TextBatch(["a", "b", "c"], ["d", " ", "e"], paraphrase=numbered), generators(0, [0, 1, 2], 0))
    assert changed.pairs[0].startswith("d ") and changed.pairs[1] == " "
    assert changed.pairs[0].split()[1] != changed.texts[0].split()[1]
    assert operation(TextBatch(["c"], ["e"], paraphrase=numbered), generators(0, [2], 0)).pairs == changed.pairs[2:]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_without_models_it_is_refused(operation: GenerativeOperation) -> None:
    with pytest.raises(
        InputError, match=rf"data.augment: {type(operation).__name__} runs a language model .*augment_copies"
    ):
        apply([operation], TextBatch(["a b"]), np.random.default_rng(0))


def test_generative_operations_are_refused_at_test_time() -> None:
    rows = Dataset.from_dict({"text": ["a b"], "row": [0]})
    with pytest.raises(InputError, match="--augment: SubstituteByModel runs a language model"):
        SeveralViews((SubstituteByModel("bert"),), 2).texts(rows, 1)


def test_p_zero_returns_the_text() -> None:
    batch = TextBatch(["a b"])
    assert SubstituteByModel("bert", p=0.0)(batch, np.random.default_rng(0)) is batch


@pytest.mark.parametrize("operation", OPERATIONS)
def test_pickle_and_generative_operations(operation: GenerativeOperation) -> None:
    assert pickle.loads(pickle.dumps(operation)) == operation
    assert generative_operations([SwapWords(), Sometimes(OneOf((SwapWords(), operation)))]) == [operation]


@pytest.mark.parametrize(
    ("fields", "output"),
    [
        ({"p": 1.5}, "SubstituteByModel.p: expected 0 to 1, got 1.5"),
        ({"top_k": 0}, "SubstituteByModel.top_k: expected 1 to 100000, got 0"),
        ({"temperature": -1.0}, "SubstituteByModel.temperature: expected 0 to 100, got -1.0"),
        ({"max_length": 3}, "SubstituteByModel.max_length: expected 4 to 100000, got 3"),
        ({"batch_size": 0}, "SubstituteByModel.batch_size: expected 1 to 100000, got 0"),
        ({"checkpoint": " "}, "SubstituteByModel.checkpoint: expected a Hub id or the folder of a checkpoint"),
    ],
)
def test_substitution_out_of_range(fields: dict, output: str) -> None:
    with pytest.raises(InputError, match=output):
        SubstituteByModel(**({"checkpoint": "bert"} | fields))


@pytest.mark.parametrize(
    ("fields", "output"),
    [
        ({"num_beams": 0}, "BackTranslate.num_beams: expected 1 to 100, got 0"),
        ({"temperature": 101.0}, "BackTranslate.temperature: expected 0 to 100, got 101.0"),
        ({"num_beams": 2, "temperature": 0.5}, "BackTranslate.temperature: expected 0 with num_beams above 1, got 0.5"),
        ({"back": ""}, "BackTranslate.back: expected a Hub id or the folder of a checkpoint"),
    ],
)
def test_back_translation_out_of_range(fields: dict, output: str) -> None:
    with pytest.raises(InputError, match=output):
        BackTranslate(**({"there": "en-de", "back": "de-en"} | fields))
