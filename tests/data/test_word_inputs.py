"""Windows of words: every word is scored once, at its first piece, with context on both sides."""

import numpy as np
import pytest
from datasets import Dataset
from helpers.tiny import tiny_tokenizer

from hf_finetune.data.inputs import Rows, columns_of, with_labels
from hf_finetune.data.word_inputs import PLACES, WORD_PLACES, WordInputs, by_row, encoded_of, sources, word_counts
from hf_finetune.data.words import read_sentence

WORDS = ["a", "the", "of", "to", "film", "good", "plot", "xyz"]  # xyz has three pieces


def rows_of(*sentences: list[str]) -> Dataset:
    read = [read_sentence(words) for words in sentences]
    columns = {"text": [each.text for each in read], "bounds": [each.bounds for each in read]}
    labels = [list(range(len(words))) for words in sentences]
    return Dataset.from_dict({**columns, "label": labels, "row": list(range(10, 10 + len(read)))})


def sentence(count: int, seed: int = 0) -> list[str]:
    return np.random.default_rng(seed).choice(WORDS, size=count).tolist()


@pytest.mark.parametrize("max_length", [8, 16, 64])
def test_every_word_is_scored_once_at_its_first_piece(max_length: int) -> None:
    sentences = [sentence(3), sentence(50, 1), sentence(17, 2), ["xyz" * 20, "a"], ["a"]]
    inputs, rows = WordInputs(tiny_tokenizer(), max_length), rows_of(*sentences)
    encoded = inputs.encode(rows)
    assert max(encoded["length"]) <= max_length
    labels = by_row(encoded, np.concatenate(encoded["label"]))
    assert [each.tolist() for each in labels] == rows["label"][:]
    assert sources(encoded, np.arange(len(encoded))).tolist() == sorted(encoded["source"][:])
    pieces = [
        inputs.tokenizer.convert_ids_to_tokens(ids[place])
        for ids, places in zip(encoded["input_ids"], encoded[PLACES], strict=True)
        for place in places
    ]
    assert [piece[0] for piece in pieces] == [word[0] for words in sentences for word in words]


def test_words_in_the_middle_have_context() -> None:
    encoded = WordInputs(tiny_tokenizer(), 18).encode(rows_of(["a"] * 60))
    assert len(encoded) > 4
    for places in encoded[PLACES][1:-1]:
        assert places[0] == 1 + 4 and places[-1] == 16 - 4  # a quarter of 16 tokens on each side


def test_letters_that_the_tokenizer_drops_are_scored_too() -> None:
    encoded = WordInputs(tiny_tokenizer(), 16).encode(rows_of(["a", "\u200b", "film"]))
    assert encoded[PLACES][0] == [1, 1, 2]


def test_a_batch_has_the_places_of_its_words() -> None:
    inputs = WordInputs(tiny_tokenizer(), 16)
    encoded = inputs.encode(rows_of(["xyz", "a"], ["film"]))
    assert word_counts(encoded).tolist() == [2, 1]
    batch = with_labels(inputs.collate, Rows(encoded, columns_of(inputs, labels=True)).__getitems__([0, 1]))
    assert batch["input_ids"].shape == (2, 6)  # [CLS] x ##y ##z a [SEP]
    assert batch[WORD_PLACES].tolist() == [1, 4, 6 + 1]
    assert batch["labels"].tolist() == [0, 1, 0]


def test_a_text_without_bounds_has_words_and_marks() -> None:
    encoded = WordInputs(tiny_tokenizer(), 16).encode_in_memory(Dataset.from_dict({"text": ["good film!"], "row": [0]}))
    assert encoded[PLACES][0] == [1, 2, 3]


def test_windows_are_found_by_their_rows() -> None:
    encoded = WordInputs(tiny_tokenizer(), 8).encode(rows_of(["a"], sentence(20), ["film"]))
    assert encoded_of(encoded, np.array([1])).tolist() == list(range(1, len(encoded) - 1))
    assert encoded_of(encoded, np.array([0, 2])).tolist() == [0, len(encoded) - 1]
