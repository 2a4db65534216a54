"""Sentences by way of another language: their seams, the search, and what does not come through."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.language_models import drawing_translator, translator

from hf_finetune.augmentation.generative.back_translation import Drawn, Search, by_way_of, split_sentences, translate
from hf_finetune.augmentation.generative.checkpoints import TextModel, load

CPU = torch.device("cpu")
GREEDY = Search(num_beams=1, temperature=0.0, top_k=50, max_length=20, batch_size=2)
DRAWN = replace(GREEDY, temperature=1.0, batch_size=64)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    return load(translator(tmp_path_factory.mktemp("out"), ["good", "film"]), None, "translation", CPU)


@pytest.fixture(scope="module")
def dice(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    folder = drawing_translator(tmp_path_factory.mktemp("dice"), good=0.5, film=0.2, end=0.3)
    return load(folder, None, "translation", CPU)


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
def test_sentences_and_their_seams(text: str, parts: list[str]) -> None:
    assert split_sentences(text) == parts and "".join(parts) == text


@pytest.mark.parametrize("beams", [1, 3])
def test_there_and_back(out: TextModel, tmp_path: Path, beams: int) -> None:
    back = load(translator(tmp_path, ["best", "movie", "ever"]), None, "translation", CPU)
    search = replace(GREEDY, num_beams=beams)
    changed = by_way_of(
        ["a race was won", "it", "so it is"],
        [((i, 0), (i, 1)) for i in range(3)],
        out,
        back,
        prefixes=("", ""),
        search=search,
    )
    assert changed == ["best movie ever"] * 3


def test_what_is_too_long_or_does_not_end_stays(out: TextModel) -> None:
    long, seeds = " ".join(["so"] * 30), [((i, 0), (i, 1)) for i in range(2)]
    assert translate(["it", long], [(0,), (1,)], out, prefix="", search=GREEDY, bar="") == ["good film", None]
    assert by_way_of(["it", long], seeds, out, out, prefixes=("", ""), search=GREEDY) == ["good film", long]
    # 20 tokens hold the prefix too.
    prefixes = (" ".join(["so"] * 18) + " ", "")
    assert by_way_of(["it is", "it"], seeds, out, out, prefixes=prefixes, search=GREEDY) == ["it is", "it"]
    # "good", "film" and the end are three tokens.
    assert by_way_of(["it"], seeds[:1], out, out, prefixes=("", ""), search=replace(GREEDY, max_length=4)) == [
        "good film"
    ]
    assert translate(["it"], [(0,)], out, prefix="", search=replace(GREEDY, max_length=3), bar="") == [None]


def test_an_end_that_the_checkpoint_forces_is_none(tmp_path: Path) -> None:
    """As Marian's configs do with what has grown as long as it may."""
    cut = load(translator(tmp_path, ["best", "movie", "ever"]), None, "translation", CPU)
    cut.model.generation_config.forced_eos_token_id = cut.tokenizer.sep_token_id
    for longest, found in ((3, None), (5, "best movie ever")):
        search = replace(GREEDY, max_length=longest)
        assert translate(["it"], [(0,)], cut, prefix="", search=search, bar="") == [found]


def test_longer_than_the_model_has_positions_for_stays(out: TextModel) -> None:
    search = replace(GREEDY, max_length=1000)
    texts = [" ".join(["so"] * 62), " ".join(["so"] * 63)]
    assert translate(texts, [(0,), (1,)], out, prefix="", search=search, bar="") == ["good film", None]


def test_words_are_drawn_by_their_probability(dice: TextModel) -> None:
    """The first word is "good" in half of the sentences, and with it 5 of 7 of those that have one."""
    found = translate(["it"] * 1400, [(i,) for i in range(1400)], dice, prefix="", search=DRAWN, bar="")
    first = Counter(text.split()[0] for text in found if text is not None)
    assert first.keys() == {"good", "film"}
    assert abs(first["good"] / first.total() - 5 / 7) < 0.06
    assert abs(first.total() / 1400 - 0.7) < 0.05, "an end at once is no translation"


def test_a_sentence_is_drawn_by_its_own_seed_whatever_its_company(dice: TextModel) -> None:
    texts, seeds = ["it", "a race was won", "so", "good"], [(3,), (4,), (5,), (6,)]
    together = translate(texts, seeds, dice, prefix="", search=DRAWN, bar="")
    alone = [translate([t], [s], dice, prefix="", search=DRAWN, bar="")[0] for t, s in zip(texts, seeds, strict=True)]
    assert together == alone and len(set(together)) > 1


def test_draws_keep_to_the_likeliest_tokens() -> None:
    scores_BV = torch.tensor([[0.0, 3.0, 2.9, -5.0]]).expand(200, 4)
    drawn = Drawn([(i,) for i in range(200)], 1.0, 2)(torch.zeros(200, 1), scores_BV).argmax(1)
    assert set(drawn.tolist()) == {1, 2}
    cold = Drawn([(i,) for i in range(200)], 1e-3, 4)(torch.zeros(200, 1), scores_BV).argmax(1)
    assert set(cold.tolist()) == {1}
