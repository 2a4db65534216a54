"""What is left out of a row: how much, whole words, other parts in every epoch, the same ones whenever it is asked."""

from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from small_runs import text_rows
from tiny import tiny_text_checkpoint

from hf_finetune.data.inputs import TextInputs
from hf_finetune.data.masking import (
    NOT_ASKED,
    WORDS,
    Masking,
    blocks,
    collate_texts,
    masked_texts,
    numbered,
    places,
    with_words,
)
from hf_finetune.errors import InputError
from hf_finetune.models.processors import load_tokenizer


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> TextInputs:
    checkpoint = tiny_text_checkpoint(tmp_path_factory.mktemp("texts") / "bert")
    return TextInputs(load_tokenizer(str(checkpoint), max_length=32, sample=[]), 32)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_numbered() -> None:
    assert numbered([None, 0, 0, 1, None, 0, 2, None]) == [-1, 0, 0, 1, -1, 2, 3, -1]


def test_share() -> None:
    """Of 20 words of one token .15 are three; of five, one; special tokens are never asked for."""
    for seed in range(20):
        for count, asked in ((20, 3), (5, 1), (1, 1)):
            mask = places(np.array([-1, *range(count), -1]), rng(seed), share=0.15)
            assert mask.sum() == asked and not mask[[0, -1]].any()


def test_whole_words() -> None:
    """A word goes whole or not at all, and never more than round(.4 * 10) = 4 tokens, but for a first word that is longer."""
    words = np.array([-1, 0, 0, 0, 1, 2, 2, 3, 4, 4, 4, -1])
    found = set()
    for seed in range(50):
        mask = places(words, rng(seed), share=0.4)
        for word in range(5):
            assert mask[words == word].all() or not mask[words == word].any()
        assert 3 <= mask.sum() <= 4
        found.add(tuple(mask))
    assert len(found) > 4
    assert places(np.array([0, 0, 0, 0, 0]), rng(0), share=0.1).sum() == 5


def test_spans() -> None:
    """As many words in fewer runs: single words are seldom neighbours."""

    def runs(span: int) -> float:
        masks = [places(np.arange(200), rng(seed), share=0.15, span=span) for seed in range(20)]
        assert all(mask.sum() == 30 for mask in masks)
        return float(np.mean([(np.diff(np.concatenate([[0], mask])) == 1).sum() for mask in masks]))

    assert runs(10) < 12 < 20 < runs(1)


def test_what_stands_in_their_place() -> None:
    """Eight of ten masked, one exchanged for any token that is no special one, one as it was; the labels are what stood there."""
    ids, words = rng(0).integers(10, 60, 20_000), np.arange(20_000)
    masking = Masking(share=0.5, span=1, mask=4, others=np.arange(5, 1000), seed=0)
    shown, labels = masking(ids, words, rng(1))
    asked = labels != NOT_ASKED
    assert asked.sum() == 10_000 and (labels[asked] == ids[asked]).all() and (shown[~asked] == ids[~asked]).all()
    is_mask, same = shown[asked] == 4, shown[asked] == ids[asked]
    assert is_mask.mean() == pytest.approx(0.8, abs=0.012)
    assert same.mean() == pytest.approx(0.1 + 0.1 / 995, abs=0.01)
    exchanged = shown[asked][~is_mask & ~same]
    assert exchanged.min() >= 5 and exchanged.max() > 900


def test_words_of_a_tokenizer(inputs: TextInputs) -> None:
    """`qxj` falls into pieces; a pair's second text begins a word of its own; without whole words each token is one."""
    rows = inputs.encode(Dataset.from_dict({"text": ["good qxj", "a"], "text_pair": ["good film", "qj"]}))
    assert with_words(rows, inputs, whole_word=True)[WORDS][:] == [
        [-1, 0, 1, 1, 1, -1, 2, 3, -1],
        [-1, 0, -1, 1, 1, -1],
    ]
    assert with_words(rows, inputs, whole_word=False)[WORDS][1] == [-1, 0, -1, 1, 2, -1]


def test_masks_are_of_seed_row_and_epoch(inputs: TextInputs) -> None:
    """Whatever the batch; and the batch's labels are padded with what is not asked for."""
    rows = with_words(inputs.encode(text_rows(40)), inputs, whole_word=True)

    def batch(indices: list[int], *, seed: int = 0, epoch: int = 0) -> list[list[int]]:
        read = masked_texts(rows, inputs, Masking.of(inputs.tokenizer, share=0.3, span=1, seed=seed))
        read.set_epoch(epoch)
        found = collate_texts(inputs, read.__getitems__(indices))
        assert found["labels"].shape == found["input_ids"].shape and WORDS not in found
        return [[x for x in row if x != NOT_ASKED] for row in found["labels"].tolist()]

    whole = batch(list(range(40)))
    assert batch([7, 3]) == [whole[7], whole[3]]
    assert batch(list(range(40)), epoch=1) != whole != batch(list(range(40)), seed=1)


def test_a_tokenizer_without_a_mask(inputs: TextInputs, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_text_checkpoint(tmp_path / "bert")), max_length=32, sample=[])
    tokenizer.mask_token = None
    with pytest.raises(InputError, match=r"pretrain.objective: MaskedLanguage needs a mask token"):
        Masking.of(tokenizer, share=0.15, span=1, seed=0)


def test_blocks_of_pictures() -> None:
    """Of 4 x 4 squares of two patches, .6 are ten, wholly left out; a border that is no whole square is cut off."""
    mask = blocks((8, 8), rng(0), block=2, share=0.6)
    assert mask.sum() == 40 and (mask.reshape(4, 2, 4, 2).mean((1, 3)) % 1 == 0).all()
    assert blocks((5, 3), rng(0), block=2, share=0.99).shape == (5, 3)
    assert not (mask == blocks((8, 8), rng(1), block=2, share=0.6)).all()
