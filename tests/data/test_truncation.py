"""How many texts are cut off, and the length that would hold them."""

import pytest
from datasets import Dataset
from helpers.checkpoints import load_tokenizer
from helpers.tiny import WORDS, tiny_text_checkpoint

from hf_finetune.data.inputs import TextInputs
from hf_finetune.data.long.config import Sliding
from hf_finetune.data.truncation import Truncation, Way, ways

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
    assert inputs.truncation(rows) == Truncation(12, 0.02, 22, 0.99, pytest.approx((750 + 20) / 750), "--max-length 22")
    assert inputs.truncation(rows, limit=16) == Truncation(
        12, 0.02, 16, 0.98, pytest.approx((750 + 8) / 750), "--max-length 16"
    )
    assert inputs.whole_lengths(rows).holding(1.0) == 42 and inputs.truncated_share(rows) == 0.02


def test_nothing_is_cut_off(inputs: TextInputs) -> None:
    """A text of just the maximum length is whole."""
    assert (
        inputs.truncation(texts(inputs, 3, 4)) == inputs.truncation(texts(inputs, 3, 10)) == Truncation(12, 0, 12, 1, 1)
    )


def test_a_sample_stands_for_all(inputs: TextInputs) -> None:
    rows = texts(inputs, *[4] * 50, *[20] * 50)
    assert (
        inputs.truncation(rows, 10)
        == inputs.truncation(rows)
        == Truncation(12, 0.5, 22, 1, pytest.approx(1400 / 900), "--max-length 22")
    )


def test_the_cost_of_each_way(inputs: TextInputs) -> None:
    """Texts of 7 and of 32 tokens. Of windows of 10 words that share 2 the longer one needs four: its 32 tokens, and
    for each further window 2 shared and 2 special ones."""
    lengths = inputs.whole_lengths(texts(inputs, *[5] * 10, *[30] * 10))
    present, sliding, longer = ways(lengths, inputs.long, inputs.reader, [Sliding(stride=2)])
    assert present == Way("--long truncate", 0.5, (7 + 12) / 2, 1.0)
    assert sliding == Way("--long sliding", 0.0, (7 + 32 + 3 * 4) / 2, pytest.approx((7 + 44) / 19))
    assert longer == Way("--max-length 32", 0.0, (7 + 32) / 2, pytest.approx(39 / 19))
    assert ways(lengths, inputs.long, inputs.reader, [], limit=16)[-1].cut_off == 0.5
