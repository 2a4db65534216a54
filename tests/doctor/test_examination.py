"""Findings of the doctor in texts, with every defect inserted by hand."""

import json
import logging
import random
import unicodedata
from pathlib import Path

import pytest
from helpers.hand_made import by_name, clean, examined, rows_of, write
from helpers.tiny import tiny_text_checkpoint

from hf_finetune import InputError
from hf_finetune.data.config import DataLimits, Source
from hf_finetune.doctor.examination import examine
from hf_finetune.doctor.near_duplicates import _BETWEEN_WORDS, plain_words, words_in
from hf_finetune.doctor.texts import WORD, count_words


def test_nothing_is_found_in_clean_rows(tmp_path: Path) -> None:
    report = examined(tmp_path, clean(200), clean(40, seed=1))
    assert report.findings == ()
    assert report.describe().endswith("no findings")
    assert report.classes == {"no": {"train": 100, "test": 20}, "yes": {"train": 100, "test": 20}}
    assert report.statistics["words"] == {"least": 9.0, "median": 9.0, "p95": 9.0, "most": 9.0}


def test_exact_copies_within_train_and_in_test(tmp_path: Path) -> None:
    train = clean(60)
    report = examined(tmp_path, [*train, train[4], train[4]], [*clean(20, seed=1), train[7]])
    assert by_name(report).keys() == {"duplicates", "leaked"}
    assert rows_of(report, "duplicates") == [("train", 60), ("train", 61)]
    assert rows_of(report, "leaked") == [("test", 20)]
    leaked = by_name(report)["leaked"]
    assert (leaked.severity, leaked.count, leaked.of) == ("serious", 1, 21)
    assert leaked.suspects[0].reason == "exact copy of train row 7"
    assert leaked.to_dict(report.examples)["rows"][0]["other"] == {"split": "train", "row": 7}


def test_copies_that_differ_in_case_punctuation_or_a_word(tmp_path: Path) -> None:
    train = clean(60)
    long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    first = train[8][0]
    report = examined(
        tmp_path,
        [*train, (first.upper() + "!!", "no"), (long, "yes"), (f"{long} seventeen", "no")],
        [*clean(20, seed=1), (f"zero {long}", "yes")],
    )
    assert by_name(report).keys() == {"near_duplicates", "near_leaked"}
    assert rows_of(report, "near_duplicates") == [("train", 60), ("train", 62)]
    assert rows_of(report, "near_leaked") == [("test", 20)]
    assert by_name(report)["near_duplicates"].summary.endswith("as an earlier one, 1 of them with another label")
    assert by_name(report)["near_duplicates"].suspects[1].reason == (
        "nearly a copy of train row 61, which is labeled yes, this one no"
    )


def test_one_text_with_two_labels(tmp_path: Path) -> None:
    train = clean(60)
    other = {"yes": "no", "no": "yes"}[train[3][1]]
    report = examined(tmp_path, [*train, (train[3][0], other)])
    assert by_name(report).keys() == {"conflicts", "duplicates"}
    assert rows_of(report, "conflicts") == [("train", 3), ("train", 60)]


def test_damaged_characters_html_and_bare_addresses(tmp_path: Path) -> None:
    train = clean(60)
    texts = [
        "the caf\u00c3\u00a9 opens the garden",  # café, UTF-8 read as cp1252
        "the letter hides\x07 the market and finds",
        "the bridge \ufffd crosses the island",
        "the caf\u00e9 paints the na\u00efve ticket",  # as it should be
        "the <b>mirror</b> sells the forest &amp; planet",
        "3 < 4 and 5 > 2 & so on it goes",  # no markup
        "https://a.example/x www.b.example",
    ]
    report = examined(tmp_path, [*train, *((text, ("no", "yes")[i % 2]) for i, text in enumerate(texts))])
    assert by_name(report).keys() == {"damaged_characters", "markup", "only_urls"}
    assert rows_of(report, "damaged_characters") == [("train", 60), ("train", 61), ("train", 62)]
    assert rows_of(report, "markup") == [("train", 64)]
    assert rows_of(report, "only_urls") == [("train", 66)]
    assert "another encoding" in by_name(report)["damaged_characters"].suspects[0].reason


def test_lengths(tmp_path: Path) -> None:
    report = examined(tmp_path, [*clean(60), ("river", "no"), ("!!!", "yes"), (" ".join(["river opens"] * 80), "no")])
    assert by_name(report).keys() == {"very_short", "very_long", "cut_off"}
    assert rows_of(report, "very_short") == [("train", 60), ("train", 61)]
    assert rows_of(report, "very_long") == rows_of(report, "cut_off") == [("train", 62)]
    assert [s.reason for s in by_name(report)["very_short"].suspects] == ["one word", "no word"]
    assert {f.severity for f in report.findings} == {"note"}


def test_tokens_are_counted_with_a_checkpoint(tmp_path: Path) -> None:
    """The tiny tokenizer splits unknown words into characters."""
    data = tmp_path / "data"
    data.mkdir()
    checkpoint = str(tiny_text_checkpoint(tmp_path / "bert"))
    rows = [("good film now", "yes"), ("bad film now", "no"), ("a good film for you and me now", "yes")]
    report = examined(data, rows * 10, checkpoint=checkpoint, max_length=6)
    assert report.statistics["tokens"] == {"least": 5.0, "median": 5.0, "p95": 10.0, "most": 10.0}
    assert report.statistics["cut_off_share"] == pytest.approx(1 / 3)
    cut = by_name(report)["cut_off"]
    assert (cut.severity, cut.count, cut.of) == ("look", 10, 30)
    assert cut.suspects[0].reason == "10 tokens, 6 are read"


def test_sizes_of_classes(tmp_path: Path) -> None:
    train = [(text, "no") for text, _ in clean(80)] + [(text, "yes") for text, _ in clean(4, seed=3)]
    report = examined(tmp_path, train, [(text, "no") for text, _ in clean(10, seed=5)])
    assert by_name(report).keys() == {"few_rows", "missing_classes", "uneven_classes"}
    assert by_name(report)["few_rows"].details == ("yes: 4 training rows",)
    assert by_name(report)["missing_classes"].details == ("test: yes",)
    assert by_name(report)["uneven_classes"].summary == "no has 80 training rows, yes 4"


def test_a_word_that_gives_the_class_away(tmp_path: Path) -> None:
    """A telltale is in all 30 rows of one class; rarer words and words of both classes are not."""
    marked = [(f"{text} xqz" if label == "yes" else text, label) for text, label in clean(60)]
    marked = [(f"{text} seldom" if i in (1, 3, 5) else text, label) for i, (text, label) in enumerate(marked)]
    findings = by_name(examined(tmp_path, marked))
    assert findings.keys() == {"telltales"}
    assert findings["telltales"].details == ("xqz: in 30 of 30 rows of yes and 0 of 30 others",)
    assert findings["telltales"].severity == "look"


def test_a_word_of_half_a_class_is_a_note_where_it_decides_few_rows(tmp_path: Path) -> None:
    """In 20 of 30 rows of one class: a note among 330 rows, more severe among 60."""
    rows = clean(60)
    marked = [(f"{text} xqz" if label == "yes" and i < 40 else text, label) for i, (text, label) in enumerate(rows)]
    (finding,) = examined(tmp_path, marked).findings
    assert (finding.name, finding.severity) == ("telltales", "look")
    assert finding.details == ("xqz: in 20 of 30 rows of yes and 0 of 30 others",)
    others = [(text, "maybe") for text, _ in clean(270, seed=7)]
    (finding,) = (f for f in examined(tmp_path, [*marked, *others]).findings if f.name == "telltales")
    assert (finding.severity, finding.details) == ("note", ("xqz: in 20 of 30 rows of yes and 0 of 300 others",))


def test_rows_that_training_would_refuse_are_named_one_by_one(tmp_path: Path) -> None:
    train = clean(40)
    train[3], train[9], train[20] = (" ", "no"), (train[9][0], ""), ("", "yes")
    report = examined(tmp_path, train, [*clean(20, seed=1), ("the river is new", "mabye")])
    findings = by_name(report)
    assert findings.keys() == {"unusable_text", "unusable_label"}
    assert (findings["unusable_text"].count, findings["unusable_label"].count) == (2, 2)
    assert findings["unusable_text"].details == (
        "train row 3 (line 5): the text is empty",
        "train row 20 (line 22): the text is empty",
    )
    assert findings["unusable_label"].details[0] == "train row 9 (line 11): the label is empty"
    assert (
        findings["unusable_label"]
        .details[1]
        .startswith("test row 20 (line 22): the label 'mabye' is not among the 2 classes")
    )
    assert len(report.examples.splits["train"]) == 37
    # What is left keeps its number.
    assert 4 not in set(report.examples.row_N[:3]) and report.examples.row_N[3] == 4


def test_rows_are_numbered_as_in_their_file_behind_ones_that_are_left_out(tmp_path: Path) -> None:
    train = clean(40)
    train[3] = ("", "no")
    report = examined(tmp_path, [*train, train[10]])
    assert rows_of(report, "duplicates") == [("train", 40)]
    assert by_name(report)["duplicates"].suspects[0].reason == "exact copy of train row 10"


def test_without_any_usable_row_it_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"train.csv, row 0 \(line 2\): the text is empty; no training row can be used"
    ):
        examined(tmp_path, [("", "yes"), (" ", "no")])


def test_pairs(tmp_path: Path) -> None:
    """Pairs with different second texts differ; words of both texts count."""
    (tmp_path / "train.csv").write_text(
        "sentence1,sentence2,label\n"
        + "".join(f"the {t},the other {t},{y}\n" for t, y in clean(30))
        + "The Sky!,is blue,yes\nthe sky,is Blue.,yes\nthe sky,is not blue,no\nthe sky is,blue,no\n"
    )
    report = examine(Source(str(tmp_path)), "text")
    assert by_name(report).keys() == {"near_duplicates"}
    assert rows_of(report, "near_duplicates") == [("train", 31)]


def test_the_report_is_the_same_every_time(tmp_path: Path) -> None:
    train = clean(60)
    report = examined(tmp_path, [*train, *train[:9]], [train[1], ("river", "no"), ("a<br>b", "yes")])
    again = examine(Source(str(tmp_path)), "text")
    assert report.describe() == again.describe() and report.to_dict() == again.to_dict()
    json.dumps(report.to_dict())


def test_the_report_names_three_rows_and_says_how_many_more(tmp_path: Path) -> None:
    train = clean(60)
    lines = examined(tmp_path, [*train, *train[:9]]).describe().splitlines()
    assert lines[0] == "69 texts, 2 classes; rows are counted from 0"
    start = lines.index("look:    9 of 69 training rows repeat an earlier one exactly")
    text = " ".join(" ".join(lines[start + 1 :]).split())
    assert text.startswith(f"train row 60: exact copy of train row 0 - {train[0][0]} train row 61: ")
    assert "         and 6 more (--json shows all)" in lines
    assert any(line.startswith("         remedy: keep one of each") for line in lines)
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "findings: 1 look"


def test_no_validation_rows_are_held_out(tmp_path: Path) -> None:
    write(tmp_path / "rows.csv", clean(50))
    assert list(examine(Source(str(tmp_path / "rows.csv")), "text").examples.splits) == ["train"]


def test_labels_that_differ_only_in_case_or_white_space(tmp_path: Path) -> None:
    spelled = [(text, ("yes ", "Yes", "no")[i % 3] if i < 60 else label) for i, (text, label) in enumerate(clean(120))]
    finding = by_name(examined(tmp_path, spelled))["similar_labels"]
    assert (finding.severity, finding.count, finding.of) == ("serious", 3, 4)
    assert finding.details == ("'Yes' (20 rows), 'yes' (30 rows), 'yes ' (20 rows)",)


def test_conflicts_name_the_first_row_with_another_label(tmp_path: Path) -> None:
    """In time linear in the rows: 20,000 equal texts took half a minute."""
    rows = [*clean(60), *(("the same text in every row", "no") for _ in range(20_000)), *clean(1)]
    rows += [("the same text in every row", "yes")] * 2
    finding = by_name(examined(tmp_path, rows))["conflicts"]
    assert finding.count == 20_002
    others = [suspect.other for suspect in finding.suspects if suspect.index >= 60]
    assert others == [20_061] * 20_000 + [60, 60]


@pytest.mark.parametrize("letters", ["abcXYZ09_'' \t!\"-\x07\x1f\n", "ab' \u2019\u00e9\u4e2d"])
def test_words_of_ascii_are_those_of_the_pattern(letters: str) -> None:
    """The patterns alone took 24 s for 20,000 texts of 600 words."""
    rng = random.Random(0)
    for length in range(300):
        text = "".join(rng.choices(letters, k=length % 30))
        plain = _BETWEEN_WORDS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()
        assert plain_words(text) == plain
        assert words_in(plain) == WORD.findall(plain)
        assert count_words(text) == len(WORD.findall(text))


@pytest.mark.parametrize("piece", ["a film ", "фильм ", "电影"])
def test_words_of_a_very_long_text_are_estimated_by_its_beginning(piece: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """50 texts of a million Chinese letters took 14 s."""
    monkeypatch.setattr("hf_finetune.doctor.texts.LONG_TEXT", 8 * len(piece))
    text, words = piece * 1000, len(WORD.findall(piece))
    assert count_words(text) == 1000 * words
    assert count_words(f"{piece * 500}{' ' * 500 * len(piece)}") == 1000 * words, "what follows is not read"


def test_more_text_than_is_compared(tmp_path: Path) -> None:
    write(tmp_path / "rows.csv", [*clean(60), clean(60)[0]])
    few = examine(Source(str(tmp_path / "rows.csv"), limits=DataLimits(compared_characters=100)), "text")
    assert {finding.name for finding in few.findings} == {"duplicates"}
    assert few.findings[0].of == 61


@pytest.mark.parametrize(("letter", "times"), [("e", 1), ("é", 3)])
def test_text_that_is_not_ascii_counts_three_times(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, letter: str, times: int
) -> None:
    """Splitting it into words takes that much longer: 20,000 rows of 600 Cyrillic words took 15 s."""
    caplog.set_level(logging.INFO, "hf_finetune")
    rows = [(f"{text} {letter}", label) for text, label in clean(60)]
    write(tmp_path / "rows.csv", rows)
    characters = sum(len(text) for text, _ in rows)
    for most, is_partial in ((characters * times, False), (characters * times - 1, True)):
        caplog.clear()
        examine(Source(str(tmp_path / "rows.csv"), limits=DataLimits(compared_characters=most)), "text")
        assert ("rows are compared" in caplog.text) == is_partial


def test_pairs_that_are_equal_or_swapped(tmp_path: Path) -> None:
    texts = [text for text, _ in clean(80)]
    rows = [(texts[i], texts[i + 40], ("no", "yes")[i % 2]) for i in range(40)]
    rows += [(texts[41], texts[1].upper(), "yes"), (texts[42], texts[2], "yes"), (texts[3], f" {texts[3]}", "no")]
    lines = [",".join(row) for row in (("text", "text_pair", "label"), *rows)]
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    findings = by_name(examine(Source(str(tmp_path / "pairs.csv")), "text"))
    assert [suspect.index for suspect in findings["equal_pairs"].suspects] == [42]
    reasons = [suspect.reason for suspect in findings["swapped_pairs"].suspects]
    assert reasons == [
        "train row 1 in the other order, both labeled yes",
        "train row 2 in the other order, labeled no there, yes here",
    ]
