"""How many texts are cut off, and the length that would hold them."""

import pytest
from datasets import Dataset
from helpers.checkpoints import load_tokenizer
from helpers.tiny import WORDS, tiny_text_checkpoint

from hf_finetune.data.inputs import TextInputs, Truncation

WORD = WORDS.split()[0]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> TextInputs:
    checkpoint = str(tiny_text_checkpoint(tmp_path_factory.mktemp("x") / "bert"))
    return TextInputs(load_tokenizer(checkpoint, max_length=12, sample=[]), 12)


def texts(inputs: TextInputs, *words: int) -> Dataset:
    """Texts of so many words, each a token, with two special tokens."""
    return inputs.encode(Dataset.from_dict({"text": [" ".join([WORD] * n) for n in words]}))


def test_by_hand(inputs: TextInputs) -> None:
    """Of 100 texts of 7 to 42 tokens, two are longer than 12: one may be cut off in turn."""
    rows = texts(inputs, *[5] * 90, *[10] * 8, 20, 40)
    # 90 x 7 + 8 x 12 + 2 x 12 tokens now; at length 22, two texts have 22 in place of 12.
    assert inputs.truncation(rows) == Truncation(12, 0.02, 22, 0.99, pytest.approx((750 + 20) / 750))
    assert inputs.truncation(rows, limit=16) == Truncation(12, 0.02, 16, 0.98, pytest.approx((750 + 8) / 750))
    assert inputs.truncation(rows, coverage=1.0).length == 42 and inputs.truncated_share(rows) == 0.02


def test_nothing_is_cut_off(inputs: TextInputs) -> None:
    """A text of just the maximum length is whole."""
    assert (
        inputs.truncation(texts(inputs, 3, 4)) == inputs.truncation(texts(inputs, 3, 10)) == Truncation(12, 0, 12, 1, 1)
    )


def test_a_sample_stands_for_all(inputs: TextInputs) -> None:
    rows = texts(inputs, *[4] * 50, *[20] * 50)
    assert (
        inputs.truncation(rows, 10) == inputs.truncation(rows) == Truncation(12, 0.5, 22, 1, pytest.approx(1400 / 900))
    )
