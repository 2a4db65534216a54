"""Batches equal those of `tokenizer.pad`, and rows those of `datasets`."""

from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, concatenate_datasets
from helpers.small_runs import text_rows
from helpers.tiny import TEXT_FAMILIES, tiny_tokenizer

from hf_finetune.data import tokens
from hf_finetune.data.inputs import Rows, TextInputs, columns_of, with_labels
from hf_finetune.data.tokens import TokenLists, count_tokens, pack, pad, runs_of_texts, used_token_ids
from hf_finetune.data.word_inputs import WordInputs


@pytest.fixture(scope="module")
def pairs() -> Dataset:
    rows = text_rows(30)
    return rows.add_column("text_pair", rows["text"][::-1])


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_same_as_the_tokenizer_pads(pairs: Dataset, family: str, side: str) -> None:
    inputs = TextInputs(tiny_tokenizer(family), 24)
    inputs.tokenizer.padding_side = side
    encoded = inputs.encode(pairs)
    batch = Rows(encoded, columns_of(inputs, labels=True)).__getitems__([4, 0, 11, 7])
    expected = inputs.tokenizer.pad(
        {n: encoded[[4, 0, 11, 7]][n] for n in inputs.tokenizer.model_input_names if n in encoded.column_names},
        return_tensors="pt",
    )
    made = with_labels(inputs.collate, batch)
    assert made.pop("labels").tolist() == [0, 0, 1, 1]
    assert made.keys() == expected.keys() and "attention_mask" in made
    for name, tensor in made.items():
        assert tensor.dtype == expected[name].dtype and torch.equal(tensor, expected[name]), name
    assert all(torch.equal(t, made[n]) for n, t in inputs.collate(encoded[[4, 0, 11, 7]]).items()), "lists as well"
    # Rows of one length: the same, and no mask.
    alike = with_labels(inputs.collate, encoded[[4, 4]])
    assert alike.keys() == {*made, "labels"} - {"attention_mask"}
    assert alike["input_ids"].tolist() == [encoded[4]["input_ids"]] * 2


def test_columns_that_only_the_tokenizer_knows_are_left_to_it() -> None:
    inputs = TextInputs(tiny_tokenizer("bert"), 24)
    inputs.tokenizer.model_input_names = ["input_ids", "special_tokens_mask", "attention_mask"]
    made = inputs.collate({"input_ids": [[1, 2, 3], [4]], "special_tokens_mask": [[0, 0, 0], [0]]})
    assert made["special_tokens_mask"].tolist() == [[0, 0, 0], [0, 1, 1]]


def test_no_mask_for_a_model_that_takes_none() -> None:
    inputs = TextInputs(tiny_tokenizer("bert"), 24)
    inputs.tokenizer.model_input_names = ["input_ids"]
    assert inputs.collate({"input_ids": [[1, 2, 3], [4]]}).keys() == {"input_ids"}


def test_rows_are_those_of_the_dataset(pairs: Dataset) -> None:
    """Also of sliced, selected and concatenated tables."""
    inputs = TextInputs(tiny_tokenizer("bert"), 24)
    encoded = inputs.encode(pairs)
    for rows in (
        encoded,
        encoded.select([7, 2, 29, 2]),
        encoded.select(range(5, 12)),
        encoded.select(range(5, 12)).select([6, 0]),
        concatenate_datasets([encoded.select([3, 1]), encoded, encoded.select(range(2, 4))]),
        encoded.shuffle(seed=0).filter(lambda row: row["row"] % 3 == 0),
    ):
        order = np.random.default_rng(0).permutation(len(rows))
        batch = Rows(rows, columns_of(inputs, labels=True)).__getitems__(order)
        expected = rows[order.tolist()]
        assert batch.keys() == {"input_ids", "token_type_ids", "label"}
        assert [ids.tolist() for ids in batch["input_ids"]] == expected["input_ids"]
        assert [ids.tolist() for ids in batch["token_type_ids"]] == expected["token_type_ids"]
        assert batch["label"].tolist() == expected["label"]


@pytest.mark.parametrize("kind", [pa.list_(pa.int32()), pa.large_list(pa.int64())])
def test_token_lists_over_chunks_and_slices(kind: pa.DataType) -> None:
    lists = [[1, 2], [], [3], [4, 5, 6], [7]]
    column = pa.chunked_array([pa.array(lists[:2], kind), pa.array([[9], *lists[2:], [9]], kind).slice(1, 3)])
    assert [a.tolist() for a in TokenLists(column).take([4, 0, 1, 3, 2])] == [lists[i] for i in (4, 0, 1, 3, 2)]


def test_by_hand() -> None:
    columns = {"input_ids": [np.array([5, 6], np.int32), np.array([7], np.int32)], "token_type_ids": [[0, 1], [1]]}
    padded = pad(columns, {"input_ids": 9, "token_type_ids": 3}, left=True)
    assert {n: t.tolist() for n, t in padded.items()} == {
        "input_ids": [[5, 6], [9, 7]],
        "token_type_ids": [[0, 1], [3, 1]],
        "attention_mask": [[1, 1], [0, 1]],
    }
    packed = pack(columns)
    assert (packed.pop("max_length_q"), packed.pop("max_length_k")) == (2, 2)
    assert packed["cu_seq_lens_q"].dtype == torch.int32
    assert {n: t.tolist() for n, t in packed.items()} == {
        "input_ids": [[5, 6, 7]],
        "token_type_ids": [[0, 1, 1]],
        "position_ids": [[0, 1, 0]],
        "cu_seq_lens_q": [0, 2, 3],
        "cu_seq_lens_k": [0, 2, 3],
    }


def test_ids_that_occur() -> None:
    rows = Dataset.from_dict({"input_ids": [[5, 2], [9], [], [2, 7]]})
    assert used_token_ids(rows).tolist() == [2, 5, 7, 9]
    assert used_token_ids(rows.select([3, 1])).tolist() == [2, 7, 9]


# Long texts

LONG = ["a film " * 3_000, "a" * 12_000, " " * 12_000 + "good film " * 20, "bad film, " * 2_000, "short"]


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_long_texts_have_the_tokens_of_whole_ones(family: str, paired: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = TextInputs(tiny_tokenizer(family), 24)
    columns = {"text": LONG, **({"text_pair": LONG[::-1]} if paired else {})}
    longest: list[int] = []

    def recorded(tokenizer, texts, pairs=None, **options):
        longest.append(max(map(len, texts)))
        return tokenize(tokenizer, texts, pairs, **options)

    tokenize = tokens.tokenize
    expected = inputs.tokenizer(*columns.values(), truncation=True, max_length=24, return_attention_mask=False)
    monkeypatch.setattr("hf_finetune.utils.panics.tokenize", recorded)
    actual = inputs.encode_in_memory(Dataset.from_dict(columns))
    assert all(actual[name][:] == list(expected[name]) for name in expected)
    longest.clear()
    inputs.encode_batch({"text": [LONG[0], LONG[3]]})
    assert longest == [10_000], "the ends of these are not tokenized"


@pytest.mark.parametrize("kind", [TextInputs, WordInputs])
def test_rows_that_are_read_once_are_not_hashed(kind: type[TextInputs], monkeypatch: pytest.MonkeyPatch) -> None:
    """For a cache of `datasets` that nothing reads."""
    rows = Dataset.from_dict({"text": ["a good film", "bad"], "row": [0, 1]})
    hashed = Mock()
    monkeypatch.setattr("datasets.arrow_dataset.generate_fingerprint", hashed)
    encoded = kind(tiny_tokenizer("bert"), 24).encode_in_memory(rows)
    assert encoded["length"][:] == [5, 3] and not hashed.called
    # The numbers of `datasets`, by whose bytes cached predictions of teachers are found.
    monkeypatch.undo()
    again = Dataset.from_dict({name: encoded[name][:] for name in encoded.column_names})
    assert encoded.data.schema.types == again.data.schema.types
    assert pa.list_(pa.int32()) in encoded.data.schema.types and pa.list_(pa.int8()) in encoded.data.schema.types


def test_texts_that_are_cut_off_on_the_left_are_whole() -> None:
    inputs = TextInputs(tiny_tokenizer("bert"), 24)
    inputs.tokenizer.truncation_side = "left"
    expected = inputs.tokenizer(LONG, truncation=True, max_length=24)["input_ids"]
    assert inputs.encode_batch({"text": LONG})["input_ids"] == expected


def test_few_characters_are_tokenized_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of fifty texts of a million letters took gigabytes."""
    monkeypatch.setattr(tokens, "CHARACTERS_AT_ONCE", 10)
    runs = runs_of_texts(["a" * n for n in (4, 6, 1, 20, 3)])
    assert [(run.start, run.stop) for run in runs] == [(0, 2), (2, 3), (3, 4), (4, 5)]
    rows, inputs = text_rows(30), TextInputs(tiny_tokenizer("bert"), 24)
    expected = inputs.tokenizer(rows["text"][:], truncation=True, max_length=24)["input_ids"]
    assert inputs.encode(rows)["input_ids"][:] == expected


def test_tokens_of_long_texts_are_estimated() -> None:
    tokenizer = tiny_tokenizer("bert")
    counts = count_tokens(tokenizer, ["a film", "a film " * 30_000], ["good", "good"])
    assert counts[0] == len(tokenizer("a film", "good")["input_ids"])
    assert abs(int(counts[1]) / len(tokenizer("a film " * 30_000, "good")["input_ids"]) - 1) < 0.01
