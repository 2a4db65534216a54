"""Words in place of others: which, by what draw, and what stays."""

import json
import time
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.language_models import masked_model
from helpers.tiny import tiny_tokenizer
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from hf_finetune.augmentation.generative.checkpoints import LanguageModel, load, whole_words
from hf_finetune.augmentation.generative.masked_lm import (
    MaskedText,
    SubstituteByModel,
    draw_token,
    fill_masks,
    mask_words,
)
from hf_finetune.augmentation.generative.sources import Source
from hf_finetune.errors import InputError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """Likes the middle of a word best, then "good", then "film", then "story"."""
    scores = {"##a": 30.0, "good": 20.0, "film": 19.0, "story": 12.0}
    return load(Source(masked_model(tmp_path_factory.mktemp("known"), **scores), None, "masked words"), CPU)


def filled(model: LanguageModel, *texts: str, p: float = 1.0, seed: int = 0, **options) -> list[str]:
    opened = [mask_words(text, p, np.random.default_rng((seed, i))) for i, text in enumerate(texts)]
    options = {"top_k": 1, "temperature": 0.0, "max_length": 64, "batch_size": 4} | options
    return fill_masks(opened, model, SubstituteByModel("any", **options))


def test_only_words_of_letters_are_masked() -> None:
    text = "A fine film,  don't\nyou think? 42 @me #tag http://x.y (Well-made)"
    opened = mask_words(text, 1.0, np.random.default_rng(0))
    assert "".join(opened.pieces) == text
    words = [opened.pieces[i] for i in opened.positions]
    assert words == ["A", "fine", "film", "don't", "you", "think", "Well-made"]
    assert opened.text("_") == "_ _ _,  _\n_ _? 42 @me #tag http://x.y (_)"


def test_letters_of_scripts_without_spaces_are_masked_one_by_one() -> None:
    opened = mask_words("很好 看。", 1.0, np.random.default_rng(0))
    assert opened.text("_") == "__ _。" and "".join(opened.pieces) == "很好 看。"
    assert len(mask_words("服务员态度很好", 0.1, np.random.default_rng(0)).positions) == 1


def test_words_with_combining_marks_stay() -> None:
    """Without its mark a letter would be another word, and the mark would stand on what is put in."""
    decomposed = unicodedata.normalize("NFD", "The caf\u00e9 na\u00efve \u00e0-la-carte is good")
    opened = mask_words(decomposed, 1.0, np.random.default_rng(0))
    assert "".join(opened.pieces) == decomposed
    assert [opened.pieces[i] for i in opened.positions] == ["The", "is", "good"]
    hindi = "\u092f\u0939 \u0915\u0940 \u0928\u092e\u0938\u094d\u0924\u0947 \u0918\u0930."
    opened = mask_words(hindi, 1.0, np.random.default_rng(0))
    assert [opened.pieces[i] for i in opened.positions] == ["\u092f\u0939", "\u0918\u0930"]


def test_a_long_text_is_joined_quickly() -> None:
    opened = MaskedText(("word",) * 20_000, tuple(range(0, 20_000, 2)))
    started = time.process_time()
    assert opened.text("_").count("_") == 10_000
    assert time.process_time() - started < 0.3


@pytest.mark.parametrize(("p", "count"), [(0.0, 0), (0.01, 1), (0.3, 3), (1.0, 10)])
def test_number_of_masked_words(p: float, count: int) -> None:
    assert len(mask_words("a b c d e f g h i j", p, np.random.default_rng(0)).positions) == count


@pytest.mark.parametrize("text", ["", " ", "word", "42 43", "word "])
def test_short_texts_have_no_masks(text: str) -> None:
    assert mask_words(text, 1.0, np.random.default_rng(0)).positions == ()


def test_whole_words_of_the_vocabulary() -> None:
    tokenizer = tiny_tokenizer()
    actual = whole_words(tokenizer)
    assert {"film", "good", "a"} <= set(actual.words.values())
    assert not {tokenizer.convert_ids_to_tokens(i) for i in actual.words} & {"##a", "1", ".", "[MASK]"}
    assert actual.tokens["film"] == [tokenizer.convert_tokens_to_ids("film")]


def test_temperature_zero_takes_the_most_likely_other_word(known: LanguageModel) -> None:
    """Neither the middle of a word nor the word itself, though the model likes them better."""
    # Every word at once, one of which the vocabulary has in pieces alone.
    assert filled(known, 'It is "Good",  GOOD and\nwonderful!') == ['Good good "Film",  FILM good\ngood!']


def test_draw_token_by_hand() -> None:
    scores_V = torch.log(torch.tensor([0.3, 0.5, 1e-30, 0.2]))
    for draw, token in ((0.0, 1), (0.49, 1), (0.51, 0), (0.79, 0), (0.81, 3), (0.999, 3)):
        assert draw_token(scores_V, draw, top_k=4, temperature=1.0) == token
    # Of the two best 5 in 8 and 3 in 8; with the logits doubled 25 in 34.
    assert [draw_token(scores_V, d, top_k=2, temperature=1.0) for d in (0.62, 0.63, 0.999)] == [1, 0, 0]
    assert [draw_token(scores_V, d, top_k=2, temperature=0.5) for d in (0.73, 0.74)] == [1, 0]
    assert {draw_token(scores_V, d, top_k=4, temperature=0.0) for d in (0.0, 0.999)} == {1}
    banned_V = torch.tensor([-torch.inf, 1.0, -torch.inf])
    assert draw_token(banned_V, 0.999, top_k=3, temperature=1.0) == 1


def test_words_are_sampled_by_probability(tmp_path: Path) -> None:
    shares = {"good": np.log(0.6), "film": np.log(0.3), "story": np.log(0.1)}
    model = load(Source(masked_model(tmp_path, **{w: 50 + s for w, s in shares.items()}), None, "masked words"), CPU)
    words = " ".join(filled(model, *["so so"] * 1000, top_k=3, temperature=1.0, batch_size=64)).split()
    counts = Counter(words)
    assert counts.keys() == shares.keys()
    # Four standard deviations of 2000 draws.
    assert abs(counts["good"] / 2000 - 0.6) < 0.044 and abs(counts["story"] / 2000 - 0.1) < 0.027


def test_words_past_max_length_stay(known: LanguageModel) -> None:
    """Of 8 tokens two are the text's ends."""
    text = " ".join(["so"] * 10)
    (changed,) = filled(known, text, max_length=8)
    assert changed.split()[6:] == ["so"] * 4 and "so" not in changed.split()[:6]
    (longest,) = filled(known, " ".join(["so"] * 100), max_length=1000)
    assert longest.split().count("so") == 100 - 62, "the model has positions for 64 tokens"


def test_truncation_side_of_the_checkpoint_is_overridden(tmp_path: Path) -> None:
    folder, text = Path(masked_model(tmp_path)), "a good film of a long race and so it is"
    in_front = filled(load(Source(str(folder), None, "masked words"), CPU), text, p=0.5, max_length=8)
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"truncation_side": "left"}))
    assert filled(load(Source(str(folder), None, "masked words"), CPU), text, p=0.5, max_length=8) == in_front != [text]


def test_a_text_with_the_mask_token_in_it_stays(known: LanguageModel) -> None:
    assert filled(known, "so [MASK] it is", "so it is")[0] == "so [MASK] it is"


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_text_does_not_depend_on_its_batch(tmp_path: Path, family: str) -> None:
    model = load(Source(masked_model(tmp_path, family), None, "masked words"), CPU)
    texts = [
        "the film was good",
        "a race",
        "it is the best match of the season, they say, and not a bad one",
        "so it was",
    ]
    together = filled(model, *texts, p=0.5, top_k=20, temperature=1.0, batch_size=3)
    assert together != texts
    for i, text in enumerate(texts):
        opened = [mask_words(text, 0.5, np.random.default_rng((0, i)))]
        alone = fill_masks(opened, model, SubstituteByModel("any", max_length=64, batch_size=1))
        assert alone == together[i : i + 1]
        assert len(alone[0].split()) == len(text.split())
    assert filled(model, *texts, p=0.5, top_k=20, temperature=1.0, batch_size=3) == together
    assert filled(model, *texts, p=0.5, seed=1, top_k=20, temperature=1.0, batch_size=3) != together


def test_a_vocabulary_without_two_words_is_refused(known: LanguageModel) -> None:
    """Of one word that is written in two ways, neither can stand for the other."""
    tokens = {token: i for i, token in enumerate(["[UNK]", "[MASK]", "The", "the", "##a", "1"])}
    inner = Tokenizer(WordPiece(tokens, unk_token="[UNK]"))
    inner.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", mask_token="[MASK]")
    assert whole_words(tokenizer).tokens == {"the": [2, 3]}
    with pytest.raises(InputError, match="pieces: its vocabulary has no whole words to put in"):
        filled(LanguageModel("pieces", known.model, tokenizer, 64), "a b")
