"""Sentences as words: lists, texts, character spans, CoNLL files, and what is wrong with them."""

import json

import numpy as np
import pytest

from hf_finetune.data.config import DataLimits, Source, SplitOptions
from hf_finetune.data.labels import literal_list
from hf_finetune.data.loading import load
from hf_finetune.data.ragged import Ragged
from hf_finetune.data.words import Sentence, read_sentence, tags_of_spans, word_bounds, words_in
from hf_finetune.errors import InputError

ROWS = [
    {"tokens": ["EU", "rejects", "German", "call"], "ner_tags": ["B-ORG", "O", "B-MISC", "O"]},
    {"tokens": ["Peter", "Black"], "ner_tags": ["B-PER", "I-PER"]},
    {"tokens": ["Peter", "sleeps"], "ner_tags": ["B-PER", "O"]},
    {"tokens": ["EU", "talks"], "ner_tags": ["B-ORG", "O"]},
]


def written(path, rows):
    path.write_text(json.dumps(rows), encoding="utf-8")
    return str(path)


def loaded(path, **options):
    return load(Source(path, **options), "text", SplitOptions())


def test_words_of_texts():
    text = "Don't panic, Mr. 東京! नमस्ते\u200b"
    assert words_in(text, word_bounds(text)) == ["Don", "'", "t", "panic", ",", "Mr", ".", "東", "京", "!", "नमस्ते"]


def test_words_of_cells():
    assert read_sentence(["New York", "is"]) == Sentence("New York is", [0, 8, 9, 11])
    assert read_sentence(literal_list("['a', 'b']")).words == ["a", "b"]
    assert read_sentence("EU, yes", "O O").words == ["EU,", "yes"]
    assert read_sentence("EU, yes", [{"start": 0}]).words == ["EU", ",", "yes"]
    assert read_sentence([]) is None
    with pytest.raises(ValueError, match="word 2 is empty"):
        read_sentence(["a", " "])


@pytest.mark.parametrize(
    ("span", "message"),
    [
        ((0, 5, "PER"), "overlaps another span"),
        ((15, 30, "LOC"), "lies outside of the text of 22 characters"),
        ((15, 18, "LOC"), r"cuts the word 'Berlin' \(15-21\), expected whole words"),
        ((5, 6, "LOC"), "holds no word"),
        ((3, 3, "LOC"), "lies outside"),
    ],
)
def test_spans_that_do_not_fit(span, message):
    sentence = read_sentence("Peter lives in Berlin.")
    spans = [{"start": 0, "end": 5, "label": "PER"}, dict(zip(("start", "end", "label"), span, strict=True))]
    with pytest.raises(ValueError, match=message):
        tags_of_spans(sentence, spans)


def test_spans_become_tags():
    sentence = read_sentence("Peter Black lives in Berlin.")
    spans = [{"start": 21, "end": 27, "label": "LOC"}, {"start": 0, "end": 11, "label": "PER"}]
    assert tags_of_spans(sentence, spans) == ["B-PER", "I-PER", "O", "O", "B-LOC", "O"]


def test_words_beside_tags_are_inferred_and_said(tmp_path):
    splits = loaded(written(tmp_path / "rows.json", [{"text": "other", **row} for row in ROWS]))
    assert splits.task == "tokens" and splits.columns == {"text": "tokens", "label": "ner_tags"}
    assert "task: tokens, as columns 'tokens' and 'ner_tags' hold words and tags; another one by --task" in splits.notes
    assert splits.labels == ("B-MISC", "B-ORG", "B-PER", "I-PER", "O")
    rows = {row["row"]: row for part in (splits.train, splits.validation) for row in part}
    assert rows[0]["text"] == "EU rejects German call"
    assert rows[0]["label"] == [1, 4, 0, 4] and rows[0]["bounds"] == [0, 2, 3, 10, 11, 17, 18, 22]


def test_lists_of_other_lengths_stay_tags_of_the_text(tmp_path):
    rows = [{"text": f"text {i}", "tokens": ["a", "b"], "tags": ["x", "y", "z"][: 1 + i % 3]} for i in range(9)]
    assert loaded(written(tmp_path / "rows.json", rows)).task == "multi-label"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"tokens": ["a", "b"], "ner_tags": ["O"]},
            r"row 4 counted from 0, column 'ner_tags': 2 words and 1 tag, expected a tag",
        ),
        ({"tokens": ["a", ""], "ner_tags": ["O", "O"]}, "row 4 counted from 0, column 'tokens': word 2 is empty"),
        ({"tokens": [], "ner_tags": []}, "row 4 counted from 0, column 'tokens': there are no words"),
        ({"tokens": ["a"], "ner_tags": [None]}, "row 4 counted from 0, column 'ner_tags': the tag of word 1 is empty"),
    ],
)
def test_a_row_that_does_not_fit_is_named(tmp_path, row, message):
    with pytest.raises(InputError, match=message):
        loaded(written(tmp_path / "rows.json", [*ROWS, row]), task="tokens")
    splits = loaded(written(tmp_path / "rows.json", [*ROWS, row]), task="tokens", drop_bad_rows=True)
    assert len(splits.train) + len(splits.validation) == 4


def test_words_are_refused_as_a_text(tmp_path):
    with pytest.raises(InputError, match=r"--task multi-label: column 'tokens' of .* holds lists of words"):
        loaded(written(tmp_path / "rows.json", ROWS), task="multi-label")


@pytest.mark.parametrize("name", ["rows.conll", "rows.iob", "rows.txt"])
def test_conll_files(tmp_path, name):
    path = tmp_path / name
    lines = ["-DOCSTART- -X- O", ""]
    for row in ROWS:
        lines += [f"{word} X {tag}" for word, tag in zip(row["tokens"], row["ner_tags"], strict=True)] + [""]
    path.write_text("\n".join(lines), encoding="utf-8")
    splits = loaded(str(path))
    assert splits.columns == {"text": "tokens", "label": "tags"}
    assert len(splits.train) + len(splits.validation) == 4


def test_a_conll_line_with_other_columns_is_named(tmp_path):
    path = tmp_path / "rows.conll"
    path.write_text("a O\nb O\n\nc O\nd\n\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"rows.conll, row 1 \(line 4\): line 5: expected 2 columns .*, got 1 \('d'\)"):
        loaded(str(path))


def test_a_sentence_without_an_end_is_refused_as_it_is_read(tmp_path):
    path = tmp_path / "rows.conll"
    path.write_text("# text\n" + "a O\n" * 20, encoding="utf-8")
    with pytest.raises(
        InputError, match=r"rows.conll, line 2: a sentence: more than 40 characters; shorten it or raise"
    ):
        loaded(str(path), limits=DataLimits(row_characters=40))


def test_lists_of_csv_files(tmp_path):
    path = tmp_path / "rows.csv"
    rows = [("c d", "['B', 'O']"), ("['a', 'b']", "O B"), ("['e']", "['O']"), ("f", "B")]
    path.write_text("text,label\n" + "".join(f'"{text}","{tags}"\n' for text, tags in rows), encoding="utf-8")
    splits = loaded(str(path), task="tokens")
    assert sorted([*splits.train["text"], *splits.validation["text"]]) == ["a b", "c d", "e", "f"]
    with path.open("a") as file:
        file.write("\"['g']\",[]\n")
    with pytest.raises(InputError, match=r"row 4 .*: 1 word and 0 tags"):
        loaded(str(path), task="tokens")
    # Long cells are not parsed, which would take 500 bytes a character.
    with pytest.raises(
        InputError, match=r"the tags have 10 characters, expected at most 9; .* --data.limits.text-char"
    ):
        loaded(str(path), task="tokens", limits=DataLimits(text_characters=9))


def test_a_table_in_a_txt_file_is_no_conll_file(tmp_path):
    path = tmp_path / "rows.txt"
    path.write_text("text\tlabel\na b\tx\nc d\ty\ne\tx\nf\ty\n", encoding="utf-8")
    assert loaded(str(path)).task == "single-label"


def test_ragged_is_indexed_by_row():
    values = Ragged.of(np.arange(6), [2, 1, 3])
    assert values[1].tolist() == [2]
    assert [each.tolist() for each in values[np.array([2, 0])]] == [[3, 4, 5], [0, 1]]
    assert [each.tolist() for each in values[np.array([True, False, True])]] == [[0, 1], [3, 4, 5]]
    assert values.to_arrow().to_pylist() == [[0, 1], [2], [3, 4, 5]]
