"""Operations on texts, by values that a person can work out."""

import re
import unicodedata

import numpy as np
import pytest

from hf_finetune import InputError
from hf_finetune.augmentation.operations import Population, TextBatch, generators
from hf_finetune.augmentation.text.characters import NEIGHBORS, ChangeCase, KeyboardTypos, OcrConfusions
from hf_finetune.augmentation.text.operations import TextOperation
from hf_finetune.augmentation.text.presets import Aeda, Eda
from hf_finetune.augmentation.text.sentences import MixHalves, ShuffleSentences
from hf_finetune.augmentation.text.synonyms import synonyms_of
from hf_finetune.augmentation.text.words import CutSpan, DeleteWords, InsertWords, ReplaceSynonyms, SwapWords
from hf_finetune.data.text_pieces import core_of, sentences_of, stays, words_of

TEXT = "The acting was great. Every minute of it  made me laugh! Go and see this film."


def changed(operation: TextOperation, *texts: str, epoch: int = 0) -> list[str]:
    """Single texts, changed."""
    return operation(TextBatch(list(texts)), generators(0, range(len(texts)), epoch)).texts


def observed(operation: TextOperation, text: str, times: int = 200) -> set[str]:
    """What becomes of a text in many epochs."""
    return {changed(operation, text, epoch=epoch)[0] for epoch in range(times)}


def test_the_word_i_and_the_start_of_a_sentence_are_no_names() -> None:
    assert observed(DeleteWords(1.0, keep="entities"), "Then I saw Rome. Nice “Nice” I've") == {"Rome. “Nice”"}


def test_swap_words() -> None:
    assert observed(SwapWords(0.1), " one  two\n") == {" two  one\n"}, "the white space stays in its place"
    assert observed(SwapWords(0.1), "a b c") == {"b a c", "c b a", "a c b"}
    assert observed(SwapWords(1.0, keep="numbers"), "1 a 2 b 3", 20) <= {"1 a 2 b 3", "1 b 2 a 3"}
    assert observed(SwapWords(0.1), "привет мир") == {"мир привет"}
    assert observed(SwapWords(0.1), "नमस्ते दुनिया") == {"दुनिया नमस्ते"}


def test_delete_words() -> None:
    assert observed(DeleteWords(1.0), " a b\tc ") == {" a ", " b ", " c "}, "one is left"
    assert observed(DeleteWords(1.0, keep="numbers"), "at 7 or 8 o'clock") == {"7 8"}
    text = " ".join(["word"] * 1000)
    assert abs(len(changed(DeleteWords(0.2), text)[0].split()) - 800) < 60


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("会议于2024年12月31日9时召开，共93人参加。", ["2024", "12", "31", "9", "93"]),
        ("ราคา๑๒๓บาทและ๔.๕บาทใน2567", ["๑๒๓", "๔.๕", "2567"]),
        ("价格12元 或34元 好", ["12", "34"]),
    ],
)
def test_numbers_stay_numbers_where_no_white_space_parts_them(text: str, numbers: list[str]) -> None:
    """A letter that stood between two of them may go, or its place be taken by a word: they do not become one."""
    actual = re.compile(r"\d+(?:[.]\d+)*")
    for operation in (
        *(operation(0.3, keep="numbers") for operation in (DeleteWords, CutSpan, SwapWords, Eda)),
        Aeda(0.5),
    ):
        for result in observed(operation, text):
            assert actual.findall(result) == numbers, (operation, result)
    known = set(numbers)
    for operation in (InsertWords(0.3, source="text"), SwapWords(0.5), DeleteWords(0.5)):
        assert all(set(actual.findall(result)) <= known for result in observed(operation, text)), operation


def test_words_of_two_scripts_do_not_run_together() -> None:
    assert observed(DeleteWords(1.0, keep="entities"), "使用Python和Java") == {"Python Java"}


def test_names_are_recognized_by_their_spelling() -> None:
    """A bare address of the web, and a name whose accent is a sign of its own."""
    name = unicodedata.normalize("NFD", "Íñigo")
    assert observed(DeleteWords(1.0, keep="entities"), f"go to bbc.co.uk, said {name} in a.") == {f"bbc.co.uk, {name}"}
    assert core_of(f"({name}-Béla's)") == ("(", f"{name}-Béla's", ")")


def test_letters_of_scripts_without_spaces_are_words() -> None:
    assert words_of("ก๑๒.๓บ, ๔/๕") == (["ก", "๑๒.๓", "บ,", "๔/๕"], ["", "", "", " ", ""])
    assert words_of("我爱 iPhone。好！ที่") == (["我", "爱", "iPhone。", "好！", "ที่"], ["", "", " ", "", "", ""])
    assert observed(SwapWords(0.1), "很好") == {"好很"} and observed(CutSpan(0.5), "不好！") == {"不", "好！"}
    assert observed(DeleteWords(1.0), "它好看。") == {"它", "好", "看。"}
    assert observed(InsertWords(0.1, "text"), "好看") == {"好好看", "看好看", "好看看", "好看好"}
    assert {text.translate(str.maketrans("", "", ".;?:!,")) for text in observed(Aeda(), "很好")} == {"很好"}
    assert abs(len(changed(DeleteWords(0.2), "好" * 1000)[0]) - 800) < 60


def test_insert_words() -> None:
    assert observed(InsertWords(0.1, "text"), "x y!") == {"x x y!", "y x y!", "x y y!", "x y! x", "x y! y"}
    movies = {"film", "picture", "pic", "flick"}
    actual = {w for m in movies for w in (f"{m} the Movie.", f"the {m} Movie.", f"the Movie. {m}")}
    assert observed(InsertWords(0.1), "the Movie.", 500) == actual
    assert observed(InsertWords(0.5), "the of and") == {"the of and"}, "no word that has a synonym"
    assert len(changed(InsertWords(0.5, "text"), "a b c d")[0].split()) == 6


def test_replace_synonyms() -> None:
    movies = {"Films", "Pictures", "Pics", "Flicks"}
    assert observed(ReplaceSynonyms(0.1), 'the  "Movies"!') == {f'the  "{m}"!' for m in movies}
    assert observed(ReplaceSynonyms(0.1), "the MOVIE") == {"the FILM", "the PICTURE", "the PIC", "the FLICK"}
    assert observed(ReplaceSynonyms(1.0), "это не the фильм") == {"это не the фильм"}
    assert set(synonyms_of("movie")) == {"film", "picture", "pic", "flick"} and synonyms_of("in") == ()


def test_cut_span() -> None:
    assert observed(CutSpan(0.5), "a b  c d") == {"c d", "a d", "a b"}
    assert observed(CutSpan(1.0), "a b c") == {"a", "c"}
    assert observed(CutSpan(1.0, keep="numbers"), "1 b 3") == {"1 3"}


def test_keyboard_typos() -> None:
    assert set(NEIGHBORS["q"]) == set("wa") and set(NEIGHBORS["g"]) == set("tyfhvb") and NEIGHBORS["1"] == "2"
    assert observed(KeyboardTypos(1.0), "Q") == {"W", "A"}
    assert observed(KeyboardTypos(1.0), "1ß 电影!") == {"2ß 电影!"}
    assert changed(KeyboardTypos(1.0), "привет, мир") == ["привет, мир"]
    for word in observed(KeyboardTypos(1.0), "augmentation"):
        assert sum(a != b for a, b in zip(word, "augmentation", strict=True)) == 1


def test_ocr_confusions() -> None:
    assert observed(OcrConfusions(1.0), "O w rx rn, 1") == {f"0 vv rx m, {one}" for one in "lI"}
    assert observed(OcrConfusions(1.0), "no") == {"n0"}
    assert observed(OcrConfusions(1.0), "кот 猫") == {"кот 猫"}


def test_change_case() -> None:
    assert changed(ChangeCase(1.0, to="upper"), "ein Café") == ["EIN CAFÉ"]
    assert changed(ChangeCase(1.0, to="lower"), "Это ТЕСТ") == ["это тест"]
    assert changed(ChangeCase(1.0, to="title"), "oNE two") == ["One Two"]
    assert observed(ChangeCase(1.0), "oK") == {"ok", "OK", "Ok"}


def test_shuffle_sentences() -> None:
    assert observed(ShuffleSentences(), "One. Two?\nThree!") == {
        f"{a} {b}\n{c}"
        for a, b, c in [
            ("One.", "Two?", "Three!"),
            ("One.", "Three!", "Two?"),
            ("Two?", "One.", "Three!"),
            ("Two?", "Three!", "One."),
            ("Three!", "One.", "Two?"),
            ("Three!", "Two?", "One."),
        ]
    }
    assert observed(ShuffleSentences(), "很好。不坏！") == {"很好。不坏！", "不坏！很好。"}
    assert sentences_of("Mr. Smith paid 3.50 to J. Doe, i.e. much. (Too much!) Ok") == (
        ["Mr. Smith paid 3.50 to J. Doe, i.e. much.", "(Too much!)", "Ok"],
        ["", " ", " ", ""],
    )


def test_sentences_of_a_text_without_capitals() -> None:
    assert sentences_of("so good! mr. x paid 3.50, i.e. much. too much?") == (
        ["so good!", "mr. x paid 3.50, i.e. much.", "too much?"],
        ["", " ", " ", ""],
    )
    assert sentences_of("He said: so good! and left.")[0] == ["He said: so good! and left."]
    assert observed(ShuffleSentences(), "it is. is it?") == {"it is. is it?", "is it? it is."}


def test_names_behind_titles_and_initials_are_kept() -> None:
    words, _ = words_of("I met Dr. Smith and J. K. Rowling (St. Petersburg) today. Then we left. So be it... But")
    kept = [word for i, word in enumerate(words) if stays(words, i, "entities")]
    assert kept == ["Dr.", "Smith", "J.", "K.", "Rowling", "(St.", "Petersburg)"]


def test_mix_halves() -> None:
    texts, labels = ["a b  c d", "e f g\th i", "x y"], np.array([0, 0, 1])
    batch = TextBatch(texts, None, labels, Population(("p", "q"), labels, texts))
    for epoch in range(10):
        after = MixHalves(1.0)(batch, generators(0, range(3), epoch)).texts
        assert after == ["a b  h i", "e f g\tc d", "x y"], "the other of its class; alone in a class, a text stays"
    with pytest.raises(InputError, match=r"MixHalves: expected training rows with their classes, got texts alone"):
        MixHalves()(TextBatch(texts), generators(0, range(3), 0))


def test_eda_is_one_of_four() -> None:
    four = (ReplaceSynonyms(0.2), InsertWords(0.2), SwapWords(0.2), DeleteWords(0.2))
    counts = np.zeros(4, int)
    for epoch in range(200):
        after = changed(Eda(0.2), TEXT, epoch=epoch)[0]
        rng = generators(0, [0], epoch)[0]
        drawn = int(rng.random() * 4)
        counts[drawn] += 1
        assert after == four[drawn].change(TEXT, rng)
    assert counts.min() > 30


def test_aeda_adds_marks_and_nothing_else() -> None:
    words = TEXT.split()
    marks: list[int] = []
    for epoch in range(200):
        after = changed(Aeda(0.3), TEXT, epoch=epoch)[0].split()
        assert [w for w in after if w not in {".", ";", "?", ":", "!", ","}] == words
        marks.append(len(after) - len(words))
    assert len(words) == 16 and set(marks) == {1, 2, 3, 4, 5}
    assert observed(Aeda(0.1), "a  b") == {t for m in ".;?:!," for t in (f"{m} a  b", f"a  {m} b")}
