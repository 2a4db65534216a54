"""Workbooks: their sheets, cells and types; damage and bombs are one line."""

import builtins
import datetime
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from helpers.data_files import error_of, noted
from helpers.loading import load, locate

from hf_finetune.data.config import DataLimits, Source
from hf_finetune.data.readers.excel_file import ExcelFile
from hf_finetune.data.sources import sniff_kind

openpyxl = pytest.importorskip("openpyxl")
ROWS: list[list[Any]] = [["text", "label"], *[[f"text {i}", "no" if i % 2 else "yes"] for i in range(20)]]


def workbook(path: Path, rows: list[list[Any]] = ROWS, **others: list[list[Any]]) -> Path:
    book = openpyxl.Workbook()
    for number, (name, content) in enumerate({"Data": rows, **others}.items()):
        sheet = book.create_sheet(name) if number else book.active
        sheet.title = name
        for row in content:
            sheet.append(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(path)
    return path


def changed(path: Path, part: str, old: str, new: str) -> Path:
    """Replace text in a part of a workbook."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    content = parts[part].decode()
    assert old in content
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, each in parts.items():
            archive.writestr(name, content.replace(old, new) if name == part else each)
    return path


SHEET = "xl/worksheets/sheet1.xml"


def values(file: ExcelFile, column: str) -> list[Any]:
    return [value for chunk in file.chunks([column], 3) for value in chunk.columns[column]]


def test_a_workbook_has_the_rows_of_the_same_csv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\n".join(",".join(row) for row in ROWS))
    assert load(workbook(tmp_path / "a.xlsx")).fingerprint == load(tmp_path / "a.csv").fingerprint
    assert sniff_kind(Source(str(tmp_path / "a.xlsx"))) == "text"


def test_cells_blank_rows_and_places(tmp_path: Path) -> None:
    rows = [
        [],
        ["text", "label", "when", None],
        ["a", 1, datetime.date(2020, 1, 2)],
        [],
        [2024, 2.5, None],
        ["#N/A", True, " "],
    ]
    file = ExcelFile(workbook(tmp_path / "a.xlsx", rows))
    assert list(file.columns()) == ["text", "label", "when"]
    assert [column.kind for column in file.columns().values()] == ["string", "number", "string"]
    assert values(file, "text") == ["a", "2024", None]
    assert values(file, "label") == [1, 2.5, True]
    assert values(file, "when") == ["2020-01-02T00:00:00", None, None]
    places = [chunk.place(i) for chunk in file.chunks(["text"], 2) for i in range(chunk.size)]
    assert places == [f"{file.path}, row 0 (line 3)", f"{file.path}, row 1 (line 5)", f"{file.path}, row 2 (line 6)"]


def test_whole_numbers_are_labels(tmp_path: Path) -> None:
    rows = [["text", "label"], *[[f"text {i}", float(i % 2)] for i in range(20)]]
    assert load(workbook(tmp_path / "a.xlsx", rows)).labels == ("0", "1")


def test_the_first_sheet_is_read_unless_another_is_named(tmp_path: Path) -> None:
    other = [["text", "label"], *[[f"other {i}", "ab"[i % 2]] for i in range(20)]]
    path = workbook(tmp_path / "a.xlsx", Other=other)
    splits = load(path)
    assert splits.labels == ("no", "yes") and noted(
        splits, "a.xlsx: the sheet 'Data' is read, not Other (--data.sheet)"
    )
    splits = load(path, sheet="Other")
    assert splits.labels == ("a", "b") and not noted(splits, "--data.sheet")
    assert error_of(path, sheet="Othr").startswith(
        f"--data.sheet Othr: {path} has no such sheet, did you mean 'Other'?; it has 'Data', 'Other'"
    )
    (tmp_path / "a.csv").write_text("text,label\na,b\n")
    assert "--data.sheet Data: " in error_of(tmp_path / "a.csv", sheet="Data")


def test_workbooks_as_splits(tmp_path: Path) -> None:
    workbook(tmp_path / "train.xlsx")
    workbook(tmp_path / "test.xlsx")
    assert set(locate(tmp_path).splits) == {"train", "test"}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], "the sheet is empty; expected a first row that names the columns"),
        ([["text", "label"]], "a header and no rows"),
        ([["text", None, "label"], ["a", 1, "b"]], "column 2 has no name in the first row"),
        ([["text", "text"], ["a", "b"]], "the first row names the column 'text' twice"),
        ([["text", "label"], ["a", "b"], ["a", "b", "c"]], "row 3 of the sheet: a cell beyond the 2 columns"),
    ],
)
def test_unusable_sheets(tmp_path: Path, rows: list[list[Any]], expected: str) -> None:
    assert expected in error_of(workbook(tmp_path / "a.xlsx", rows))


def test_what_is_no_workbook(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_bytes(b"\xd0\xcf\x11\xe0 a file with a password")
    assert "a.xlsx: not an .xlsx file" in error_of(tmp_path / "a.xlsx")
    with zipfile.ZipFile(tmp_path / "b.xlsx", "w") as archive:
        archive.writestr("a.txt", "text")
    assert "b.xlsx: not a readable .xlsx file" in error_of(tmp_path / "b.xlsx")
    (tmp_path / "a.xls").write_bytes(b"x")
    assert "cannot read .xls files" in error_of(tmp_path / "a.xls") and "save it as .xlsx" in error_of(
        tmp_path / "a.xls"
    )


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, imported = workbook(tmp_path / "a.xlsx"), builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name == "openpyxl":
            raise ImportError(name)
        return imported(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    assert error_of(path) == f"{path}: Excel files need openpyxl: pip install 'hf_finetune[excel]'"


def test_a_bomb_is_refused_by_the_size_that_it_declares(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", [["text", "label"], *[["x" * 30_000, "no"]] * 200])
    rows = "".join(
        f'<row r="{i}"><c r="A{i}" t="inlineStr"><is><t>{"x" * 30_000}</t></is></c></row>' for i in range(3, 200)
    )
    changed(path, SHEET, "</sheetData>", f"{rows}</sheetData>")
    assert "a.xlsx: it decodes to more than 1,000,000 bytes" in error_of(
        path, limits=DataLimits(decoded_bytes=1_000_000)
    )


def test_a_long_text_that_many_cells_share_is_counted_for_each(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", [["text", "label"], *[["x" * 30_000, "no"]] * 200])
    assert "a.xlsx: it decodes to more than 1,000,000 bytes" in error_of(
        path, limits=DataLimits(decoded_bytes=1_000_000)
    )


@pytest.mark.parametrize(
    ("part", "old", "new"),
    [
        (SHEET, "</sheetData>", f"<row>{'<c/>' * 101}</row></sheetData>"),
        (SHEET, "</sheetData>", f"{'<row/>' * 501}</sheetData>"),
        (
            SHEET,
            "</sheetData>",
            f"{''.join(f'<row><c r={chr(34)}XFD{i}{chr(34)}/></row>' for i in range(30, 32))}</sheetData>",
        ),
        (SHEET, "</sheetData>", f"</sheetData>{'<mergeCells/>' * 101}"),
        (SHEET, "</sheetData>", f"</sheetData>{'<a>' * 101}"),
        ("xl/styles.xml", "<fonts", f"<a>{'<xf/>' * 101}</a><fonts"),
        ("xl/workbook.xml", "<sheets>", f"<definedNames>{'<a/>' * 101}</definedNames><sheets>"),
    ],
)
def test_elements_are_limited_before_openpyxl_makes_objects_of_them(
    tmp_path: Path, part: str, old: str, new: str
) -> None:
    path, limits = workbook(tmp_path / "a.xlsx"), DataLimits(workbook_elements=3_000)
    # The file may have an element for each of its bytes.
    assert path.stat().st_size > 3_000
    load(path)
    changed(path, part, old, new * 4)
    assert "raise --data.limits.workbook-elements" in error_of(path, limits=limits)


@pytest.mark.parametrize("texts", [f"<si>{'<r/>' * 1000}</si>", "<si/>" * 5000])
def test_elements_of_shared_texts_are_limited(tmp_path: Path, texts: str) -> None:
    path = workbook(tmp_path / "a.xlsx")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/sharedStrings.xml", f"<sst>{texts}</sst>")
    assert "XML elements" in error_of(path, limits=DataLimits(workbook_elements=3_000))


def test_names_of_many_columns_are_compared_at_once(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", [["text", "label", *(f"c{i}" for i in range(10_000))], *ROWS[1:]])
    start = time.process_time()
    load(path)
    assert time.process_time() - start < 3


@pytest.mark.parametrize("place", ["XFD1048576", "A99999999999", "ZZZZZZZ3", "A-3", "3", "A0"])
def test_a_cell_far_away_neither_hangs_nor_fills_the_memory(tmp_path: Path, place: str) -> None:
    number = place.lstrip("AXFDZ")
    path = changed(
        workbook(tmp_path / "a.xlsx"),
        SHEET,
        "</sheetData>",
        f'<row r="{number}"><c r="{place}" t="n"><v>1</v></c></row></sheetData>',
    )
    start = time.monotonic()
    try:
        load(path)
    except Exception as error:
        assert "\n" not in str(error) and "a.xlsx" in str(error)
    assert time.monotonic() - start < 20


def test_entities_are_not_expanded(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx")
    entities = "".join(f'<!ENTITY e{i + 1} "{f"&e{i};" * 10}">' for i in range(9))
    changed(path, SHEET, "<worksheet", f'<!DOCTYPE worksheet [<!ENTITY e0 "x">{entities}]><worksheet')
    changed(path, SHEET, "text 1<", "&e9;<")
    assert "a.xlsx: not a readable .xlsx file" in error_of(path)


def test_external_files_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    path = workbook(tmp_path / "a.xlsx")
    changed(
        path, SHEET, "<worksheet", f'<!DOCTYPE worksheet [<!ENTITY e SYSTEM "file://{tmp_path}/secret">]><worksheet'
    )
    changed(path, SHEET, "text 1<", "&e;<")
    assert "a.xlsx: not a readable .xlsx file" in error_of(path)
