"""A panic of a tokenizer is one line that names the row, without the trace that Rust prints."""

import os

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_finetune.errors import InputError
from hf_finetune.utils.panics import Panic, panics_raised, tokenize


def backtracking() -> PreTrainedTokenizerFast:
    """A tokenizer that gives up on a long run of b that another letter ends."""
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(b+)+$"), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?")


def test_the_row_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    texts = ["a", "b" * 40 + "!", "a"]
    with pytest.raises(InputError) as caught:
        tokenize(backtracking(), texts, name="bert", rows=[6, 7, 8])
    message = str(caught.value)
    assert (
        message.startswith("bert: its tokenizer cannot split the text of row 7 counted from 0 ('bbbb")
        and "\n" not in message
    )
    assert "retry-limit" in message and message.endswith("leave the text out, or use another checkpoint")
    assert capfd.readouterr().err == ""


def test_pairs_are_tried_as_pairs() -> None:
    with pytest.raises(InputError, match="row 1 counted from 0 "):
        tokenize(backtracking(), ["a", "a"], ["a", "b" * 40 + "!"], rows=[0, 1])


def test_other_texts_are_tokenized_and_other_output_arrives(capfd: pytest.CaptureFixture[str]) -> None:
    assert tokenize(backtracking(), ["a", "b"], add_special_tokens=False)["input_ids"] == [[0], [1]]
    with panics_raised(), panics_raised():
        os.write(2, b"a note\n")
    with pytest.raises(ValueError, match="mine"), panics_raised():
        os.write(2, b"another\n")
        raise ValueError("mine")
    assert capfd.readouterr().err == "a note\nanother\n"


def test_stderr_is_the_same_afterwards(capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        with pytest.raises(Panic), panics_raised():
            backtracking()(["b" * 40 + "!"])
        os.write(2, b"still here\n")
    assert capfd.readouterr().err == "still here\n" * 2
