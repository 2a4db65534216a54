"""One line with file and row for each label that a task cannot use, from every kind of file."""

from pathlib import Path
from typing import Any

import pytest
from helpers.data_files import csv_file, error_of, jsonl_file, parquet_file

TEXTS = [f"t{i}" for i in range(6)]
WORDS = [["a", "b"]] * 6
TAGS = [["O", "B-X"]] * 6
SPAN = {"start": 0, "end": 5, "label": "X"}


def with_row_3(rows: list[Any], wrong: Any) -> list[Any]:
    return [*rows[:3], wrong, *rows[4:]]


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (["O"], "2 words and 1 tag, expected a tag for each word"),
        (None, "the label is empty"),
        (["O", None], "the tag of word 2 is empty"),
        (["O", " "], "the tag of word 2 is empty"),
        (["O", "X" * 1_001], "the label has 1,001 characters, expected at most 1,000"),
        (["O", "\ud800"], "holds half a surrogate pair"),
    ],
)
def test_tags_of_words(tmp_path: Path, tags: Any, message: str) -> None:
    rows = [{"tokens": each, "tags": of_row} for each, of_row in zip(WORDS, with_row_3(TAGS, tags), strict=True)]
    error = error_of(jsonl_file(tmp_path / "a.jsonl", rows))
    assert error.startswith(f"{tmp_path}/a.jsonl, row 3 (line 4), column 'tags': ") and message in error
    assert "--drop-bad-rows leaves such rows out" in error


@pytest.mark.parametrize(("word", "message"), [("", "word 2 is empty"), (None, "word 2 is None (NoneType)")])
def test_words(tmp_path: Path, word: Any, message: str) -> None:
    path = parquet_file(tmp_path / "a.parquet", tokens=with_row_3(WORDS, ["a", word]), tags=TAGS)
    error = error_of(path)
    assert error.startswith(f"{path}, row 3 counted from 0, column 'tokens': {message}")


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ([0.5, 1.0], "the tag of word 1 is 0.5, expected text or a whole number"),
        ([0.0, -100.0], "the tag of word 2 is -100, which marks pieces of words; expected the words of before"),
    ],
)
def test_numbers_of_words(tmp_path: Path, tags: list[float], message: str) -> None:
    """-100, the mark of pieces without a tag, was a tag of its own."""
    path = parquet_file(tmp_path / "a.parquet", tokens=WORDS, tags=with_row_3([[0.0, 1.0]] * 6, tags))
    assert error_of(path).startswith(f"{path}, row 3 counted from 0, column 'tags': {message}")


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([{"start": 0, "end": 5}], "a span is {'start': 0, 'end': 5} (dict), expected {start, end, label}"),
        ([SPAN | {"end": 99}], "the span 0-99 lies outside of the text of 8 characters"),
        ([SPAN | {"end": 3}], "cuts the word 'Peter' (0-5), expected whole words"),
        ([SPAN, SPAN], "overlaps another span"),
        ([SPAN | {"label": "X" * 1_001}], "the label has 1,001 characters"),
        (SPAN, "expected a tag for each word, or spans, got dict"),
    ],
)
def test_spans(tmp_path: Path, spans: Any, message: str) -> None:
    rows = [{"text": "Peter is", "entities": each} for each in with_row_3([[SPAN]] * 6, spans)]
    error = error_of(jsonl_file(tmp_path / "a.jsonl", rows), label="entities")
    assert error.startswith(f"{tmp_path}/a.jsonl, row 3 (line 4), column 'entities': ") and message in error


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("a O\nb B\n\nc\n", "row 1 (line 4): line 4: expected 2 columns as the first word has, got 1 ('c')"),
        ("a\n\nb\n", "expected a word and its tag on each line, divided by a tab or a space"),
        ("a\tO\nb\t\n\n", "row 0 (line 1), column 'tags': the tag of word 2 is empty"),
    ],
)
def test_conll_files(tmp_path: Path, lines: str, message: str) -> None:
    path = tmp_path / "a.conll"
    path.write_text(lines)
    assert error_of(path).removeprefix(str(path))[2:].startswith(message)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("NaN", "the label is empty"),
        ("", "the label is empty"),
        ("inf", "the target is 'inf' (str), expected a finite number"),
        ("1,5", "the target is '1,5' (str), expected a number"),
    ],
)
def test_targets(tmp_path: Path, cell: str, message: str) -> None:
    cells = with_row_3(["1.5", "2", "3", "4", "5", "6"], cell)
    path = csv_file(tmp_path / "a.csv", list(zip(TEXTS, cells, strict=True)), ("text", "score"))
    error = error_of(path, task="regression")
    assert error.startswith(f"{path}, row 3 (line 5), column 'score': {message}")


def test_a_missing_target_of_a_parquet_file(tmp_path: Path) -> None:
    path = parquet_file(
        tmp_path / "a.parquet", text=TEXTS, score=with_row_3([0.5, 1.0, 1.5, 2.0, 2.5, 3.0], float("nan"))
    )
    assert error_of(path).startswith(f"{path}, row 3 counted from 0, column 'score': the label is empty")


@pytest.mark.parametrize("cell", [2, -1, 0.5])
def test_one_column_a_tag(tmp_path: Path, cell: float) -> None:
    path = parquet_file(tmp_path / "a.parquet", text=TEXTS, x=with_row_3([0.0, 1.0] * 3, float(cell)), y=[1, 0] * 3)
    error = error_of(path, label=("x", "y"))
    assert error.startswith(f"{path}, row 3 counted from 0, column 'x,y': column 'x' holds {float(cell)} (float), ")
    assert "expected 0 or 1, true or false, or an empty cell" in error


@pytest.mark.parametrize(("tag", "message"), [(None, "one of the tags is empty"), (0.5, "one of the tags is 0.5")])
def test_lists_of_tags(tmp_path: Path, tag: Any, message: str) -> None:
    tags = with_row_3([[1.0], [2.0], [], [1.0], [2.0], [1.0, 2.0]], [1.0, tag])
    path = parquet_file(tmp_path / "a.parquet", text=TEXTS, label=tags)
    assert error_of(path).startswith(f"{path}, row 3 counted from 0, column 'label': {message}")


def test_levels(tmp_path: Path) -> None:
    cells = with_row_3(["low", "high"] * 3, "")
    path = csv_file(tmp_path / "a.csv", list(zip(TEXTS, cells, strict=True)), ("text", "grade"))
    error = error_of(path, label_order=("low", "high"))
    assert error.startswith(f"{path}, row 3 (line 5), column 'grade': the label is empty")
    path = csv_file(tmp_path / "b.csv", list(zip(TEXTS, ["1", "1.5"] * 3, strict=True)), ("text", "grade"))
    assert "the levels in column 'grade' are no whole numbers (1, 1.5)" in error_of(path, task="ordinal")
