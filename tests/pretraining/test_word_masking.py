"""Masking of words and patches: shares, whole words, spans, and reproducible masks of each epoch."""

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
    """0.15 of 20 words of one token are three, of five words one; special tokens are never predicted."""
    for seed in range(20):
        for count, predicted in ((20, 3), (5, 1), (1, 1)):
            mask = draw_spans(np.array([-1, *range(count), -1]), rng(seed), share=0.15) >= 0
            assert mask.sum() == predicted and not mask[[0, -1]].any()


def test_whole_words() -> None:
    """Words are masked as a whole, up to round(0.4 * 10) = 4 tokens, unless the first word is longer."""
    words = np.array([-1, 0, 0, 0, 1, 2, 2, 3, 4, 4, 4, -1])
    masks = set()
    for seed in range(50):
        mask = draw_spans(words, rng(seed), share=0.4) >= 0
        for word in range(5):
            assert mask[words == word].all() or not mask[words == word].any()
        assert 3 <= mask.sum() <= 4
        masks.add(tuple(mask))
    assert len(masks) > 4
    assert (draw_spans(np.array([0, 0, 0, 0, 0]), rng(0), share=0.1) >= 0).all()


def test_long_words() -> None:
    """0.15 of 20 tokens are three. A word of eight tokens is masked as a whole, one of nine token by token."""
    for seed in range(20):
        eight, nine = (np.array([-1, *[0] * n, *range(1, 21 - n), -1]) for n in (8, 9))
        predicted = draw_spans(eight, rng(seed), share=0.15)[1:9] >= 0
        assert predicted.all() or not predicted.any()
        assert (draw_spans(nine, rng(seed), share=0.15) >= 0).sum() == 3
        # Nine are less than half of 20.
        predicted = draw_spans(nine, rng(seed), share=0.5)[1:10] >= 0
        assert predicted.all() or not predicted.any()


def test_spans() -> None:
    """The same number of words in fewer runs: single words are seldom neighbors."""

    def runs(span: int) -> float:
        masks = [draw_spans(np.arange(200), rng(seed), share=0.15, span=span) >= 0 for seed in range(20)]
        assert all(mask.sum() == 30 for mask in masks)
        return float(np.mean([(np.diff(np.concatenate([[0], mask])) == 1).sum() for mask in masks]))

    assert runs(10) < 12 < 20 < runs(1)


def test_lengths_of_spans() -> None:
    """Truncated geometric: lengths 1, 2, 3 in proportions 1, 0.8, 0.64. SpanBERT's mean up to ten words is 3.8."""
    short, long = (span_lengths(longest, 20_000, rng(0)) for longest in (3, 10))
    assert (np.bincount(short, minlength=4) / 20_000).tolist() == pytest.approx(
        [0, 1 / 2.44, 0.8 / 2.44, 0.64 / 2.44], abs=0.01
    )
    assert long.max() == 10 and long.mean() == pytest.approx(3.797, abs=0.05)


def test_spans_are_masked_as_a_whole() -> None:
    """All tokens of a span are masked, replaced or unchanged together; without spans each token is drawn by itself."""
    ids, words = np.full(4000, 7), np.repeat(np.arange(1000), 4)
    for span in (1, 10):
        masked, labels = Masking(share=0.3, span=span, mask=4, others=np.array([8]), seed=0)(ids, words, rng(0))
        runs = draw_spans(words, rng(0), share=0.3, span=span)
        assert ((labels == 7) == (runs >= 0)).all()
        changes = [set(masked[runs == run].tolist()) for run in np.unique(runs[runs >= 0])]
        assert set().union(*changes) == {4, 7, 8}
        assert max(map(len, changes)) == (3 if span == 1 else 1)


def test_shares_of_masked_and_replaced_tokens() -> None:
    """Of ten predicted tokens eight are masked, one is replaced by any but a special token, one is unchanged."""
    ids, words = rng(0).integers(10, 60, 20_000), np.arange(20_000)
    masking = Masking(share=0.5, span=1, mask=4, others=np.arange(5, 1000), seed=0)
    masked, labels = masking(ids, words, rng(1))
    predicted = labels != IGNORED
    assert (
        predicted.sum() == 10_000
        and (labels[predicted] == ids[predicted]).all()
        and (masked[~predicted] == ids[~predicted]).all()
    )
    is_mask, same = masked[predicted] == 4, masked[predicted] == ids[predicted]
    assert is_mask.mean() == pytest.approx(0.8, abs=0.012)
    assert same.mean() == pytest.approx(0.1 + 0.1 / 995, abs=0.01)
    exchanged = masked[predicted][~is_mask & ~same]
    assert exchanged.min() >= 5 and exchanged.max() > 900


def test_words_of_a_tokenizer(inputs: TextInputs) -> None:
    """`qxj` has several tokens; the second text of a pair starts a new word; without whole words each token is one."""
    rows = inputs.encode(Dataset.from_dict({"text": ["good qxj", "a"], "text_pair": ["good film", "qj"]}))
    assert with_words(rows, inputs, whole_word=True)[WORDS][:] == [
        [-1, 0, 1, 1, 1, -1, 2, 3, -1],
        [-1, 0, -1, 1, 1, -1],
    ]
    assert with_words(rows, inputs, whole_word=False)[WORDS][1] == [-1, 0, -1, 1, 2, -1]


@pytest.mark.parametrize("whole_word", [True, False])
def test_special_tokens_in_a_text_are_no_words(inputs: TextInputs, whole_word: bool) -> None:
    """`[SEP]`, `[MASK]`, and unknown words."""
    rows = inputs.encode(Dataset.from_dict({"text": ["good [SEP] film [MASK] \u03b1 best"]}))
    assert with_words(rows, inputs, whole_word=whole_word)[WORDS][0] == [-1, 0, -1, 1, -1, -1, 2, -1]


def test_scripts_without_spaces() -> None:
    """To a tokenizer that splits at spaces, as XLM-R's, a sentence would be one word; other words stay whole."""
    pieces = ["<pad>", "<unk>", "<mask>", "\u2581", "\u2581good", "film", *"\u4eca\u5929\u6c14\u597d\u306e\u30fc\u0e01"]
    model = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=1))
    model.pre_tokenizer = pre_tokenizers.Metaspace()
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    inputs = TextInputs(PreTrainedTokenizerFast(tokenizer_object=model, **names), 32)
    texts = ["\u4eca\u5929\u5929\u6c14\u597d", "goodfilm \u306e\u30fc", "\u0e01film\u0e01film"]
    rows = with_words(inputs.encode(Dataset.from_dict({"text": texts})), inputs, whole_word=True)
    # The tokenizer's space sign belongs to the first character, or to the space between.
    assert rows[WORDS][:] == [[0, 0, 1, 2, 3, 4], [0, 0, 1, 2, 3], [0, 0, 1, 2, 3]]


def test_masks_depend_on_seed_row_and_epoch(inputs: TextInputs) -> None:
    """Not on the batch; labels are padded with `IGNORED`."""
    rows = with_words(inputs.encode(text_rows(40)), inputs, whole_word=True)

    def batch(indices: list[int], *, seed: int = 0, epoch: int = 0) -> list[list[int]]:
        read = masked_texts(rows, inputs, Masking.of(inputs.tokenizer, embeddings=1000, share=0.3, span=1, seed=seed))
        read.set_epoch(epoch)
        collated = collate_texts(inputs, read.__getitems__(indices))
        assert collated["labels"].shape == collated["input_ids"].shape and WORDS not in collated
        return [[x for x in row if x != IGNORED] for row in collated["labels"].tolist()]

    whole = batch(list(range(40)))
    assert batch([7, 3]) == [whole[7], whole[3]]
    assert batch(list(range(40)), epoch=1) != whole != batch(list(range(40)), seed=1)


def test_a_tokenizer_without_a_mask_token_is_refused(inputs: TextInputs, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_text_checkpoint(tmp_path / "bert")), max_length=32, sample=[])
    tokenizer.mask_token = None
    with pytest.raises(InputError, match=r"pretrain.objective: MaskedLanguage needs a mask token"):
        Masking.of(tokenizer, embeddings=1000, share=0.15, span=1, seed=0)


def test_tokens_without_an_embedding(inputs: TextInputs) -> None:
    """The model never reads them; a mask token without an embedding is refused."""
    tokens, fields = len(inputs.tokenizer), {"share": 0.15, "span": 1, "seed": 0}
    for embeddings, last in ((tokens - 20, tokens - 21), (tokens + 20, tokens - 1)):
        others = Masking.of(inputs.tokenizer, embeddings=embeddings, **fields).others
        assert others.max() == last and not set(others) & set(inputs.tokenizer.all_special_ids)
    with pytest.raises(InputError, match=r"the model has embeddings for 3 tokens, not for this tokenizer's \[MASK\]"):
        Masking.of(inputs.tokenizer, embeddings=3, **fields)


def test_masked_blocks_of_images() -> None:
    """0.6 of 4 x 4 blocks of two patches are ten, masked as a whole; blocks are cut off at the border."""
    mask = block_mask((8, 8), rng(0), block=2, share=0.6)
    assert mask.sum() == 40 and (mask.reshape(4, 2, 4, 2).mean((1, 3)) % 1 == 0).all()
    assert block_mask((5, 3), rng(0), block=2, share=0.99).shape == (5, 3)
    assert not (mask == block_mask((8, 8), rng(1), block=2, share=0.6)).all()
    # At least one of four blocks is masked, and at least one is visible.
    assert [block_mask((4, 4), rng(0), block=2, share=share).sum() for share in (0.01, 0.99)] == [4, 12]
