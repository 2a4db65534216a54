"""Sentences by way of another language: their seams, the search, and what does not come through."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.language_models import drawing_translator, translator

from hf_finetune.augmentation.generative.back_translation import BackTranslate, Sampler, split_sentences, translate
from hf_finetune.augmentation.generative.checkpoints import LanguageModel, load
from hf_finetune.augmentation.generative.sources import Source

CPU = torch.device("cpu")
GREEDY = BackTranslate("there", "back", max_length=20, batch_size=2)
DRAWN = replace(GREEDY, temperature=1.0, batch_size=64)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load(Source(translator(tmp_path_factory.mktemp("out"), ["good", "film"]), None, "translation"), CPU)


@pytest.fixture(scope="module")
def dice(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = drawing_translator(tmp_path_factory.mktemp("dice"), good=0.5, film=0.2, end=0.3)
    return load(Source(folder, None, "translation"), CPU)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two!  Three", ["One.", " ", "Two!", "  ", "Three"]),
        ("one line\nand another", ["one line", "\n", "and another"]),
        (" a b ", ["", " ", "a b", " ", ""]),
        ("3.5 stars", ["3.5 stars"]),
        ("", [""]),
        ("Dr. No came. \n\nHe left ... and (so on.) ", ["Dr. No came.", " \n\n", "He left ... and (so on.)", " ", ""]),
    ],
)
def test_split_sentences(text: str, parts: list[str]) -> None:
    assert split_sentences(text) == parts and "".join(parts) == text


@pytest.mark.parametrize("beams", [1, 3])
def test_round_trip_translation(out: LanguageModel, tmp_path: Path, beams: int) -> None:
    back = load(Source(translator(tmp_path, ["best", "movie", "ever"]), None, "translation"), CPU)
    search = replace(GREEDY, num_beams=beams)
    models = {"there": out, "back": back}
    texts = ["a race was won", "it", "so it is"]
    changed = search.rewrite(texts, range(3), lambda source: models[source.checkpoint])
    assert changed == ["best movie ever"] * 3


def test_long_or_unfinished_translations_are_dropped(out: LanguageModel) -> None:
    def changed(operation: BackTranslate, *texts: str) -> list[str]:
        return operation.rewrite(texts, range(len(texts)), lambda _: out)

    long = " ".join(["so"] * 30)
    assert translate(["it", long], [(0,), (1,)], out, GREEDY, prefix="", bar="") == ["good film", None]
    assert changed(GREEDY, "it", long) == ["good film", long]
    # 20 tokens hold the prefix too.
    prefix = " ".join(["so"] * 18) + " "
    assert changed(replace(GREEDY, there_prefix=prefix), "it is", "it") == ["it is", "it"]
    # "good", "film" and the end are three tokens.
    assert changed(replace(GREEDY, max_length=4), "it") == ["good film"]


def test_a_forced_end_token_does_not_count(tmp_path: Path) -> None:
    """As Marian's configs do with what has grown as long as it may."""
    cut = load(Source(translator(tmp_path, ["best", "movie", "ever"]), None, "translation"), CPU)
    cut.model.generation_config.forced_eos_token_id = cut.tokenizer.sep_token_id
    for longest, actual in ((4, None), (5, "best movie ever")):
        search = replace(GREEDY, max_length=longest)
        assert translate(["it"], [(0,)], cut, search, prefix="", bar="") == [actual]


def test_texts_longer_than_the_positions_stay(out: LanguageModel) -> None:
    search = replace(GREEDY, max_length=1000)
    texts = [" ".join(["so"] * 62), " ".join(["so"] * 63)]
    assert translate(texts, [(0,), (1,)], out, search, prefix="", bar="") == ["good film", None]


def test_words_are_sampled_by_probability(dice: LanguageModel) -> None:
    """The first word is "good" in half of the sentences, and with it 5 of 7 of those that have one."""
    actual = translate(["it"] * 1400, [(i,) for i in range(1400)], dice, DRAWN, prefix="", bar="")
    first = Counter(text.split()[0] for text in actual if text is not None)
    assert first.keys() == {"good", "film"}
    assert abs(first["good"] / first.total() - 5 / 7) < 0.06
    assert abs(first.total() / 1400 - 0.7) < 0.05, "an end at once is no translation"


def test_a_sentence_depends_on_its_own_seed_alone(dice: LanguageModel) -> None:
    texts, seeds = ["it", "a race was won", "so", "good"], [(3,), (4,), (5,), (6,)]
    together = translate(texts, seeds, dice, DRAWN, prefix="", bar="")
    alone = [translate([t], [s], dice, DRAWN, prefix="", bar="")[0] for t, s in zip(texts, seeds, strict=True)]
    assert together == alone and len(set(together)) > 1


def test_top_k_limits_the_sampled_tokens() -> None:
    scores_BV = torch.tensor([[0.0, 3.0, 2.9, -5.0]]).expand(200, 4)
    drawn = Sampler([(i,) for i in range(200)], 1.0, 2)(torch.zeros(200, 1), scores_BV).argmax(1)
    assert set(drawn.tolist()) == {1, 2}
    cold = Sampler([(i,) for i in range(200)], 1e-3, 4)(torch.zeros(200, 1), scores_BV).argmax(1)
    assert set(cold.tolist()) == {1}
