"""What is left out of a row: how much, whole words, other parts in every epoch, the same ones whenever it is asked."""

from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from helpers.checkpoints import load_tokenizer
from helpers.small_runs import text_rows
from helpers.tiny import tiny_text_checkpoint
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_finetune.data.inputs import TextInputs
from hf_finetune.errors import InputError
from hf_finetune.pretraining.masked_rows import block_mask
from hf_finetune.pretraining.objectives.base import IGNORED
from hf_finetune.pretraining.word_masking import (
    WORDS,
    Masking,
    collate_texts,
    draw_spans,
    masked_texts,
    number_words,
    span_lengths,
    with_words,
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> TextInputs:
    checkpoint = tiny_text_checkpoint(tmp_path_factory.mktemp("texts") / "bert")
    return TextInputs(load_tokenizer(str(checkpoint), max_length=32, sample=[]), 32)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_number_words() -> None:
    assert number_words([None, 0, 0, 1, None, 0, 2, None]) == [-1, 0, 0, 1, -1, 2, 3, -1]


def test_share() -> None:
    """Of 20 words of one token .15 are three; of five, one; special tokens are never asked for."""
    for seed in range(20):
        for count, asked in ((20, 3), (5, 1), (1, 1)):
            mask = draw_spans(np.array([-1, *range(count), -1]), rng(seed), share=0.15) >= 0
            assert mask.sum() == asked and not mask[[0, -1]].any()


def test_whole_words() -> None:
    """A word goes whole or not at all, and never more than round(.4 * 10) = 4 tokens, but for a first word that is
    longer."""
    words = np.array([-1, 0, 0, 0, 1, 2, 2, 3, 4, 4, 4, -1])
    found = set()
    for seed in range(50):
        mask = draw_spans(words, rng(seed), share=0.4) >= 0
        for word in range(5):
            assert mask[words == word].all() or not mask[words == word].any()
        assert 3 <= mask.sum() <= 4
        found.add(tuple(mask))
    assert len(found) > 4
    assert (draw_spans(np.array([0, 0, 0, 0, 0]), rng(0), share=0.1) >= 0).all()


def test_long_words() -> None:
    """Of 20 tokens .15 are three. A word of eight goes whole all the same, of one of nine its tokens one by one."""
    for seed in range(20):
        eight, nine = (np.array([-1, *[0] * n, *range(1, 21 - n), -1]) for n in (8, 9))
        asked = draw_spans(eight, rng(seed), share=0.15)[1:9] >= 0
        assert asked.all() or not asked.any()
        assert (draw_spans(nine, rng(seed), share=0.15) >= 0).sum() == 3
        # Nine are no more than half of 20.
        asked = draw_spans(nine, rng(seed), share=0.5)[1:10] >= 0
        assert asked.all() or not asked.any()


def test_spans() -> None:
    """As many words in fewer runs: single words are seldom neighbours."""

    def runs(span: int) -> float:
        masks = [draw_spans(np.arange(200), rng(seed), share=0.15, span=span) >= 0 for seed in range(20)]
        assert all(mask.sum() == 30 for mask in masks)
        return float(np.mean([(np.diff(np.concatenate([[0], mask])) == 1).sum() for mask in masks]))

    assert runs(10) < 12 < 20 < runs(1)


def test_lengths_of_spans() -> None:
    """Geometric among those that may be: of 1, .8 and .64 parts two words have .8. SpanBERT's mean up to ten words is
    3.8."""
    short, long = (span_lengths(longest, 20_000, rng(0)) for longest in (3, 10))
    assert (np.bincount(short, minlength=4) / 20_000).tolist() == pytest.approx(
        [0, 1 / 2.44, 0.8 / 2.44, 0.64 / 2.44], abs=0.01
    )
    assert long.max() == 10 and long.mean() == pytest.approx(3.797, abs=0.05)


def test_a_span_has_one_fate() -> None:
    """All of its tokens are masked, exchanged or left; tokens of a word that is no span are drawn each for itself."""
    ids, words = np.full(4000, 7), np.repeat(np.arange(1000), 4)
    for span in (1, 10):
        shown, labels = Masking(share=0.3, span=span, mask=4, others=np.array([8]), seed=0)(ids, words, rng(0))
        runs = draw_spans(words, rng(0), share=0.3, span=span)
        assert ((labels == 7) == (runs >= 0)).all()
        fates = [set(shown[runs == run].tolist()) for run in np.unique(runs[runs >= 0])]
        assert set().union(*fates) == {4, 7, 8}
        assert max(map(len, fates)) == (3 if span == 1 else 1)


def test_what_stands_in_their_place() -> None:
    """Eight of ten masked, one exchanged for any token that is no special one, one as it was; the labels are what stood
    there."""
    ids, words = rng(0).integers(10, 60, 20_000), np.arange(20_000)
    masking = Masking(share=0.5, span=1, mask=4, others=np.arange(5, 1000), seed=0)
    shown, labels = masking(ids, words, rng(1))
    asked = labels != IGNORED
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


@pytest.mark.parametrize("whole_word", [True, False])
def test_special_tokens_in_a_text_are_no_words(inputs: TextInputs, whole_word: bool) -> None:
    """`[SEP]`, `[MASK]`, and what the tokenizer does not know."""
    rows = inputs.encode(Dataset.from_dict({"text": ["good [SEP] film [MASK] \u03b1 best"]}))
    assert with_words(rows, inputs, whole_word=whole_word)[WORDS][0] == [-1, 0, -1, 1, -1, -1, 2, -1]


def test_scripts_without_spaces() -> None:
    """Cut at spaces alone, as XLM-R's tokenizer does, a sentence would be one word; other words stay whole."""
    pieces = ["<pad>", "<unk>", "<mask>", "\u2581", "\u2581good", "film", *"\u4eca\u5929\u6c14\u597d\u306e\u30fc\u0e01"]
    model = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=1))
    model.pre_tokenizer = pre_tokenizers.Metaspace()
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    inputs = TextInputs(PreTrainedTokenizerFast(tokenizer_object=model, **names), 32)
    texts = ["\u4eca\u5929\u5929\u6c14\u597d", "goodfilm \u306e\u30fc", "\u0e01film\u0e01film"]
    rows = with_words(inputs.encode(Dataset.from_dict({"text": texts})), inputs, whole_word=True)
    # The tokenizer's own sign for a space is of the first character, or stands for the space between.
    assert rows[WORDS][:] == [[0, 0, 1, 2, 3, 4], [0, 0, 1, 2, 3], [0, 0, 1, 2, 3]]


def test_masks_are_of_seed_row_and_epoch(inputs: TextInputs) -> None:
    """Whatever the batch; and the batch's labels are padded with what is not asked for."""
    rows = with_words(inputs.encode(text_rows(40)), inputs, whole_word=True)

    def batch(indices: list[int], *, seed: int = 0, epoch: int = 0) -> list[list[int]]:
        read = masked_texts(rows, inputs, Masking.of(inputs.tokenizer, embeddings=1000, share=0.3, span=1, seed=seed))
        read.set_epoch(epoch)
        found = collate_texts(inputs, read.__getitems__(indices))
        assert found["labels"].shape == found["input_ids"].shape and WORDS not in found
        return [[x for x in row if x != IGNORED] for row in found["labels"].tolist()]

    whole = batch(list(range(40)))
    assert batch([7, 3]) == [whole[7], whole[3]]
    assert batch(list(range(40)), epoch=1) != whole != batch(list(range(40)), seed=1)


def test_a_tokenizer_without_a_mask(inputs: TextInputs, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_text_checkpoint(tmp_path / "bert")), max_length=32, sample=[])
    tokenizer.mask_token = None
    with pytest.raises(InputError, match=r"pretrain.objective: MaskedLanguage needs a mask token"):
        Masking.of(tokenizer, embeddings=1000, share=0.15, span=1, seed=0)


def test_tokens_that_the_model_lacks(inputs: TextInputs) -> None:
    """None is shown to it: a tokenizer may have more, or the mask itself among them."""
    tokens, fields = len(inputs.tokenizer), {"share": 0.15, "span": 1, "seed": 0}
    for embeddings, last in ((tokens - 20, tokens - 21), (tokens + 20, tokens - 1)):
        others = Masking.of(inputs.tokenizer, embeddings=embeddings, **fields).others
        assert others.max() == last and not set(others) & set(inputs.tokenizer.all_special_ids)
    with pytest.raises(InputError, match=r"the model has embeddings for 3 tokens, not for this tokenizer's \[MASK\]"):
        Masking.of(inputs.tokenizer, embeddings=3, **fields)


def test_blocks_of_images() -> None:
    """Of 4 x 4 squares of two patches, .6 are ten, wholly left out; a border that is no whole square is cut off."""
    mask = block_mask((8, 8), rng(0), block=2, share=0.6)
    assert mask.sum() == 40 and (mask.reshape(4, 2, 4, 2).mean((1, 3)) % 1 == 0).all()
    assert block_mask((5, 3), rng(0), block=2, share=0.99).shape == (5, 3)
    assert not (mask == block_mask((8, 8), rng(1), block=2, share=0.6)).all()
    # One square of four is left, whatever the share; and one is left out.
    assert [block_mask((4, 4), rng(0), block=2, share=share).sum() for share in (0.01, 0.99)] == [4, 12]
