"""What is read of long texts: by hand, the same as plain tokenizers read, and never more than the limit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.checkpoints import load_tokenizer
from helpers.tiny import WORDS, tiny_text_checkpoint

from hf_finetune import Chunk, HeadTail, InputError, Sliding
from hf_finetune.config.recipe import recipe_from_plain
from hf_finetune.data import tokens
from hf_finetune.data.inputs import Rows, TextInputs, columns_of, with_labels
from hf_finetune.data.long.base import LongTexts
from hf_finetune.data.long.config import TRUNCATE, marked
from hf_finetune.data.long.sliding import VOTES
from hf_finetune.data.long.windows import mean_of_windows
from hf_finetune.hub import plain_loading

VOCABULARY = WORDS.split()
WAYS: list[LongTexts] = [
    TRUNCATE,
    HeadTail(),
    HeadTail(head=0.5),
    Sliding(stride=2),
    Sliding(4, 2),
    Chunk(most_chunks=3),
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(str(tiny_text_checkpoint(tmp_path_factory.mktemp("x") / "bert")), max_length=10, sample=[])


def text(words: int, first: int = 0) -> str:
    """A text of so many different words, each a token."""
    return " ".join(VOCABULARY[first : first + words])


def rows(inputs: TextInputs, *words: int) -> Dataset:
    return inputs.encode(Dataset.from_dict({"text": [text(n) for n in words], "label": [n % 2 for n in words]}))


def test_head_and_tail_by_hand(tokenizer: Any) -> None:
    """Of 10 tokens 2 are from the beginning, [CLS] among them, and 8 from the end, [SEP] among them."""
    read = TextInputs(tokenizer, 10, HeadTail(head=0.25)).encode_batch({"text": [text(20), text(8)]})["input_ids"]
    assert tokenizer.convert_ids_to_tokens(read[0]) == ["[CLS]", VOCABULARY[0], *VOCABULARY[13:20], "[SEP]"]
    assert tokenizer.convert_ids_to_tokens(read[1]) == ["[CLS]", *VOCABULARY[:8], "[SEP]"]


def test_windows_by_hand(tokenizer: Any) -> None:
    """Windows of 8 words share 2: 0-7, 6-13, 12-19. The fourth one, from 18 on, is beyond the limit."""
    inputs = TextInputs(tokenizer, 10, Sliding(stride=2, most_windows=3))
    encoded = rows(inputs, 24, 3, 9)
    batch = inputs.collate(encoded[:])
    # The last window of the last text has 5 tokens, the other one 10.
    shares = torch.tensor([[1 / 3] * 3, [1, 0, 0], [2 / 3, 1 / 3, 0]])
    assert torch.allclose(batch[VOTES], shares) and batch["input_ids"].shape == (6, 10)
    equal = TextInputs(tokenizer, 10, Sliding(stride=2, most_windows=3, weights="equal")).collate(encoded[:])
    assert equal[VOTES].tolist()[2] == [0.5, 0.5, 0]
    words = [tokenizer.decode(ids, skip_special_tokens=True) for ids in batch["input_ids"]]
    assert words == [text(8), text(8, 6), text(8, 12), text(3), text(8), text(3, 6)]
    assert (
        encoded["length"][:] == [30, 5, 15]
        and (batch["attention_mask"].sum(1) == torch.tensor([10] * 3 + [5, 10, 5])).all()
    )
    assert with_labels(inputs.collate, encoded[:])["labels"].tolist() == [0, 1, 1]


def test_votes_are_averaged_by_row() -> None:
    values_WC = torch.tensor([[1.0, 0.0], [3.0, 2.0], [5.0, 7.0]])
    shares_BK = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    assert mean_of_windows(values_WC, shares_BK).tolist() == [[2.5, 1.5], [5, 7]]


@pytest.mark.parametrize("long", WAYS, ids=str)
def test_short_texts_are_read_as_ever(tokenizer: Any, long: LongTexts) -> None:
    short = {"text": [text(n) for n in range(1, 9)]}
    plain = TextInputs(tokenizer, 10).encode_batch(short)
    read = TextInputs(tokenizer, 10, long).encode_batch(short)
    assert {name: list(column) for name, column in read.items()} == {name: list(c) for name, c in plain.items()}


@pytest.mark.parametrize("long", WAYS, ids=str)
def test_tokens_are_counted(tokenizer: Any, long: LongTexts) -> None:
    """What a plan computes from lengths is what encoding makes; the longest text that is whole is just not cut off."""
    inputs = TextInputs(tokenizer, 10, long)
    most, reader, words = long.capacity(inputs.reader), inputs.reader, np.arange(1, 60)
    encoded = rows(inputs, *words)
    assert encoded["length"][:] == long.tokens(words + 2, most, reader).tolist()
    whole = words + 2 <= most
    assert long.text_lengths(inputs.lengths(encoded), reader)[whole].tolist() == (words + 2)[whole].tolist()
    truncation = inputs.truncation(encoded)
    assert truncation.share == pytest.approx(1 - whole.mean()) and truncation.max_length == most
    assert inputs.truncation(rows(inputs, most - 2)).share == 0 < inputs.truncation(rows(inputs, most - 1)).share


def test_the_flag_that_reads_more(tokenizer: Any) -> None:
    """Of windows of 8 words that share 2, four hold 26 words and 2 special tokens."""
    inputs = TextInputs(tokenizer, 10, Sliding(stride=2, most_windows=2))
    truncation = inputs.truncation(rows(inputs, 21, 26))
    assert truncation.proposal.startswith("--data.long.most-windows 4 would hold 100.0% of them, at 1.9 times")
    assert (
        truncation.alternative == ""
        and "--long" in TextInputs(tokenizer, 10).truncation(rows(TextInputs(tokenizer, 10), 21)).alternative
    )


@pytest.mark.parametrize("long", [HeadTail(), Sliding(3, 2), Sliding(3, 2, "equal")], ids=str)
def test_plain_tokenizers_read_the_same(tokenizer: Any, long: Any) -> None:
    """By the functions that the card prints."""
    texts = [text(n) for n in (30, 4, 12)]
    inputs = TextInputs(tokenizer, 10, long)
    encoded = inputs.encode_in_memory(Dataset.from_dict({"text": texts}))
    batch = inputs.collate(Rows(encoded, columns_of(inputs, labels=False)).__getitems__([0, 1, 2]))
    settings, shares = long.plain_settings(10), None
    if isinstance(long, HeadTail):
        plain = plain_loading.head_and_tail(tokenizer, texts, **settings)
    else:
        plain, shares = plain_loading.windows(tokenizer, texts, **settings)
    assert (plain["input_ids"] == batch["input_ids"]).all()
    assert (plain["attention_mask"] == batch["attention_mask"]).all()
    if shares is not None:
        assert [[*share] for share in shares] == [[*row[row > 0]] for row in batch[VOTES]]


@pytest.mark.parametrize("long", [HeadTail(), Sliding(stride=3, most_windows=2)], ids=str)
def test_very_long_texts_are_not_tokenized_whole(tokenizer: Any, long: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(VOCABULARY, 400)) for _ in range(2)]
    inputs = TextInputs(tokenizer, 10, long)
    whole = inputs.encode_batch({"text": texts})
    monkeypatch.setattr(tokens, "LONG_TEXT", 200)
    monkeypatch.setattr(tokens, "CHARACTERS_OF_A_TOKEN", 8)
    monkeypatch.setattr(tokens, "SPARE_TOKENS", 4)
    assert len(tokens.both_ends(texts, 10)[0]) < len(texts[0])
    assert {n: list(c) for n, c in inputs.encode_batch({"text": texts}).items()} == {
        n: list(c) for n, c in whole.items()
    }


def test_pairs_are_truncated(tokenizer: Any) -> None:
    pairs = {"text": [text(20)], "text_pair": [text(20)]}
    assert (
        TextInputs(tokenizer, 10, Sliding()).encode_batch(pairs)["input_ids"]
        == (TextInputs(tokenizer, 10).encode_batch(pairs)["input_ids"])
    )
    encoded = TextInputs(tokenizer, 10).encode(Dataset.from_dict(pairs))
    assert TextInputs(tokenizer, 10).truncation(encoded).alternative == ""


def test_refusals(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Sliding(stride=5).check(tokenizer, 10, "x")
    with pytest.raises(InputError, match=r"data.long.stride: expected at most half of data.max_length, 5, got 6"):
        Sliding(stride=6).check(tokenizer, 10, "x")
    monkeypatch.setattr(tokenizer, "model_input_names", ["input_ids", "entity_ids"])
    TRUNCATE.check(tokenizer, 10, "x")
    with pytest.raises(InputError, match=r"data.long: expected truncate with x: its tokenizer makes entity_ids"):
        HeadTail().check(tokenizer, 10, "x")


@pytest.mark.parametrize("long", WAYS, ids=str)
def test_a_trained_model_says_how_it_reads(long: LongTexts) -> None:
    mark = long.mark()
    assert marked({} if mark is None else {"long_texts": mark}, "x/config.json") == long


def test_windows_of_an_earlier_version_count_the_same() -> None:
    """Those of its models and recipes had no weights."""
    assert marked({"long_texts": {"type": "Sliding", "stride": 2}}, "x") == Sliding(stride=2, weights="equal")
    recipe = recipe_from_plain({"data": {"path": "x.csv", "long": {"type": "Chunk", "most_chunks": 3}}})
    assert recipe.data.kind == "text" and recipe.data.long == Chunk(most_chunks=3, weights="equal")


def test_a_damaged_mark_is_refused() -> None:
    with pytest.raises(InputError, match=r"x/config.json: long_texts"):
        marked({"long_texts": {"type": "Sliding", "stride": -1}}, "x/config.json")
    with pytest.raises(InputError, match=r"x/config.json: long_texts.*got 'Auto'"):
        marked({"long_texts": "Auto"}, "x/config.json")
