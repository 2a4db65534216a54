"""CSV and JSON files, and a one-line error for every kind of damage."""

import json
from pathlib import Path

import pytest

from hf_finetune.data.readers.csv_file import CsvFile
from hf_finetune.data.readers.json_file import JsonFile
from hf_finetune.errors import InputError


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def values(source: CsvFile | JsonFile, column: str, size: int = 2) -> list:
    return [v for chunk in source.chunks([column], size) for v in chunk.columns[column]]


def places(source: CsvFile | JsonFile, column: str) -> list[str]:
    return [chunk.place(i) for chunk in source.chunks([column], 2) for i in range(chunk.size)]


def error_of(source: CsvFile | JsonFile, column: str = "text") -> str:
    with pytest.raises(InputError) as caught:
        source.columns()
        values(source, column)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_csv_rows_and_their_places(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", 'text,label\n"two\nlines",x\n\nNA,null\n"say ""hi"", you",None\n')
    source = CsvFile(file)
    assert values(source, "text") == ["two\nlines", "NA", 'say "hi", you']
    assert values(source, "label") == ["x", "null", "None"]
    assert places(source, "text") == [f"{file}, row 0 (line 2)", f"{file}, row 1 (line 5)", f"{file}, row 2 (line 6)"]


def test_csv_column_kinds(tmp_path: Path) -> None:
    columns = CsvFile(write(tmp_path / "a.csv", "text,stars, label \nfine,1.5,a\n7,2,b\n")).columns()
    assert list(columns) == ["text", "stars", "label"]
    assert [c.numeric for c in columns.values()] == [False, True, False]


def test_byte_order_mark_and_carriage_returns(tmp_path: Path) -> None:
    source = CsvFile(write(tmp_path / "a.csv", b"\xef\xbb\xbftext,label\r\na,b\r\nc,d\r\n"))
    assert list(source.columns()) == ["text", "label"]
    assert values(source, "label") == ["b", "d"]


def test_tsv_is_separated_by_tabs(tmp_path: Path) -> None:
    assert values(CsvFile(write(tmp_path / "a.tsv", "text\tlabel\na, b\tc\n")), "text") == ["a, b"]


def test_bare_quotation_marks_of_a_tsv_are_text(tmp_path: Path) -> None:
    """GLUE's files have unbalanced quotation marks."""
    bare = CsvFile(write(tmp_path / "a.tsv", 'text\tlabel\n"Open\tx\nsays "hi"\ty\n"a" b\tx\n'))
    assert values(bare, "text") == ['"Open', 'says "hi"', '"a" b']
    assert bare.notes == ("a.tsv: quotation marks are read as plain characters, as they do not enclose whole fields",)
    quoted = CsvFile(write(tmp_path / "b.tsv", 'text\tlabel\n"two\nlines, ""b"""\tx\n'))
    assert values(quoted, "text") == ['two\nlines, "b"'] and quoted.notes == ()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'text,label\n"Open,x\n'),
        # Quoted as it should be, but for one row: taking the marks as text would change all the others.
        ("a.tsv", '"text"\t"label"\n"a"\t"x"\n"b" c\t"y"\n'),
    ],
)
def test_quotation_marks_are_not_guessed_at(tmp_path: Path, name: str, content: str) -> None:
    assert "quotation mark" in error_of(CsvFile(write(tmp_path / name, content)))


def test_huge_field(tmp_path: Path) -> None:
    assert (
        len(values(CsvFile(write(tmp_path / "a.csv", "text,label\n" + "x" * 300_000 + ",a\n")), "text")[0]) == 300_000
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "a.csv: the file is empty; expected a header line that names the columns, then rows"),
        ("\n\n", "a.csv: the file is empty"),
        ("text,label\n", "a.csv: a header and no rows; expected one row per example below it"),
        ("text,label\na,b\nc\n", "a.csv, row 1 (line 3): expected 2 fields as in the header, got 1"),
        (
            "text,label\n\na, b,c\n",
            "a.csv, row 0 (line 3): expected 2 fields as in the header, got 3; "
            "a field that contains a comma must be enclosed in quotation marks",
        ),
        ("text,label,text\na,b,c\n", "a.csv: the header names the column 'text' twice; rename one of them"),
        (
            "text;label\na;b\nc;d;e\n",
            "a.csv, row 1 (line 3): expected 2 fields as in the header, got 3; "
            "a field that contains a semicolon must be enclosed in quotation marks",
        ),
        ('text,label\na,b\n"c,d\ne,f\n', "a.csv, line 3: a quotation mark is never closed; a field that begins with"),
        (
            'text,label\na,b\n"c" d,e\n',
            "a.csv, row 1 (line 3): ',' expected after '\"'; a field that begins with a quotation mark",
        ),
        (
            b"text,label\na,b\nc\0d,e\n",
            "a.csv, line 3: a NUL byte; ",
        ),
        (
            b"text,label\na,b\ncaf\xe9,e\n",
            "a.csv, line 3: byte 0xe9 is not utf-8; name the file's encoding: --data.encoding cp1252",
        ),
        (
            "text,label\na,b\n".encode("utf-16")[:-1],
            "a.csv, line 2: byte 0x0a is not utf-16; name the file's encoding: --data.encoding utf-8",
        ),
    ],
)
def test_csv_damage(tmp_path: Path, content: str | bytes, expected: str) -> None:
    assert expected in error_of(CsvFile(write(tmp_path / "a.csv", content)))


@pytest.mark.parametrize(
    ("name", "content", "delimiter"),
    [
        ("a.csv", "text;label\nGut, wirklich;1,5\nNaja;2,0\n", "semicolons"),
        ("a.csv", 'text\tlabel\n"a, b"\tx\nc\ty\n', "tabs"),
        ("a.csv", "text|label\na, b|x\n", "bars"),
        ("a.csv", 'id;text;label\n1;"two\nlines; and more";x\n2;b;y\n', "semicolons"),
        ("a.tsv", "text,label\na,b\n", "commas"),
        ("a.txt", "text\tlabel\na, b\tx\n", "tabs"),
        ("a.txt", "text,label\na,b\n", "commas"),
        # Both divide the header; only one divides all rows alike.
        ("a.csv", "text;label,old\na;b\nc, d;e\n", "semicolons"),
    ],
)
def test_delimiters_are_told_by_the_first_rows(tmp_path: Path, name: str, content: str, delimiter: str) -> None:
    source = CsvFile(write(tmp_path / name, content))
    assert source.notes == (f"{name}: separated by {delimiter}",)
    assert "text" in source.columns() and len(source.columns()) > 1
    assert values(source, "text")[0] in ("Gut, wirklich", "a, b", "two\nlines; and more", "a")


@pytest.mark.parametrize(
    "content", ["text\na; b\nc\n", "text,label\na;b,x\nc;d,y\n", 'text\n"a, b"\n', "a;b,c\n1;2,3\n"]
)
def test_commas_stay_where_they_fit(tmp_path: Path, content: str) -> None:
    source = CsvFile(write(tmp_path / "a.csv", content))
    assert source.notes == () and list(source.columns()) == content.splitlines()[0].split(",")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json"])
def test_a_byte_order_mark_tells_the_encoding(tmp_path: Path, name: str, encoding: str) -> None:
    content = "text,label\ncaf\u00e9,e\n" if name == "a.csv" else '{"text": "caf\u00e9"}\n{}\n'
    path = write(tmp_path / name, content.encode(encoding))
    source = CsvFile(path) if name == "a.csv" else JsonFile(path)
    assert source.notes == (f"{name}: read as {encoding}, by its byte order mark",)
    assert values(source, "text")[0] == "caf\u00e9"


def test_other_encodings(tmp_path: Path) -> None:
    assert values(CsvFile(write(tmp_path / "a.csv", b"text,label\ncaf\xe9,e\n"), "cp1252"), "text") == ["café"]
    assert values(CsvFile(write(tmp_path / "b.csv", "text,label\ncafé,e\n".encode("utf-16")), "utf-16"), "text") == [
        "café"
    ]
    assert error_of(CsvFile(tmp_path / "a.csv", "klingon")) == (
        "--data.encoding klingon: no such encoding; try utf-8, cp1252 or utf-16"
    )
    assert "byte 0x81 is not cp1252; name the file's encoding: --data.encoding latin-1" in error_of(
        CsvFile(write(tmp_path / "c.csv", b"text,label\n\x81,e\n"), "cp1252")
    )


ROWS = [{"text": "a", "label": 1}, {"text": "NA", "label": None}, {"label": "x"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps(ROWS)),
        ("a.json", json.dumps({"data": ROWS}, indent=1)),
        ("a.json", json.dumps({"text": ["a", "NA", None], "label": [1, None, "x"]})),
        ("a.json", "\n".join(map(json.dumps, ROWS))),
        ("a.jsonl", "\ufeff" + "\n\n".join(map(json.dumps, ROWS)) + "\n"),
    ],
)
def test_json_forms(tmp_path: Path, name: str, content: str) -> None:
    source = JsonFile(write(tmp_path / name, content))
    assert {name: column.kind for name, column in source.columns().items()} == {"text": "string", "label": "string"}
    assert values(source, "text") == ["a", "NA", None]
    assert values(source, "label") == [1, None, "x"]


def test_json_column_kinds(tmp_path: Path) -> None:
    row = {"a": 1, "b": True, "c": 1.5, "d": [1], "e": {"f": 1}, "g": None, "h": "x"}
    columns = JsonFile(write(tmp_path / "a.jsonl", json.dumps(row))).columns()
    assert [c.kind for c in columns.values()] == ["number", "number", "number", "list", "other", "other", "string"]


def test_jsonl_places_name_the_line(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", '{"text": "a"}\n\n{"text": "b"}\n')
    assert places(JsonFile(file), "text") == [f"{file}, row 0 (line 1)", f"{file}, row 1 (line 3)"]
    file = write(tmp_path / "a.json", '[{"text": "a"},\n\n{"text": "b"}]\n')
    assert places(JsonFile(file), "text") == [f"{file}, row 0 counted from 0", f"{file}, row 1 counted from 0"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", "", "a.jsonl: the file holds no rows; expected one object per example"),
        ("a.json", "", "a.json: the file holds no rows"),
        ("a.json", "[]", "a.json: the file holds no rows"),
        (
            "a.jsonl",
            '{"text": "a"}\n{"text": "b"\n',
            "a.jsonl, line 2: not JSON at column 13 (Expecting ',' delimiter); expected one object per line; --drop-bad-rows",
        ),
        (
            "a.jsonl",
            '{"text": "a"}\n["b"]\n',
            'a.jsonl, line 2: expected an object like {"text": ..., "label": ...}, got ["b"]',
        ),
        ("a.json", '[{"text": "a"},\n {"text" "b"}]', "a.json, line 2, column 10: not JSON (Expecting ':' delimiter)"),
        (
            "a.json",
            '[{"text": "a"}, "b"]',
            'a.json, row 1 counted from 0: expected an object like {"text": ..., "label": ...}, got "b"',
        ),
        ("a.json", '"b"', 'a.json: expected a list of objects, got "b"'),
        (
            "a.json",
            '{"text": {"0": "a"}}',
            'expected a list of objects, an object of columns (lists), or {"data": [...]}',
        ),
        ("a.json", '{"text": ["a"], "label": [1, 2]}', "a.json: the columns differ in length: 1 text, 2 label"),
        ("a.jsonl", b'{"text": "caf\xe9"}\n', "a.jsonl, line 1: byte 0xe9 is not utf-8"),
    ],
)
def test_json_damage(tmp_path: Path, name: str, content: str | bytes, expected: str) -> None:
    assert expected in error_of(JsonFile(write(tmp_path / name, content)))


def test_missing_and_forbidden_files(tmp_path: Path) -> None:
    assert error_of(CsvFile(tmp_path / "a.csv")) == f"{tmp_path}/a.csv: cannot be read (No such file or directory)"
