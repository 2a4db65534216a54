"""Obvious columns, and the message if none is obvious."""

import pytest

from hf_finetune.data.columns import choose_columns, require_columns
from hf_finetune.data.readers.table import Column
from hf_finetune.errors import InputError

KINDS = {
    "s": Column("string", "text"),
    "n": Column("string", "text", numeric=True),
    "i": Column("number", "int64"),
    "c": Column("class", "2 classes", ("no", "yes")),
    "l": Column("list", "lists"),
    "b": Column("image", "images"),
}


def chosen(
    columns: str, kind: str = "text", need_label: bool = True, place: str = "a.parquet", **requested: str
) -> str:
    """Choose from `columns` like "text:s label:i"; returns "text=text label=label"."""
    typed_columns = {name: KINDS[k] for name, _, k in (c.partition(":") for c in columns.split())}
    chosen = choose_columns(typed_columns, requested, kind=kind, need_label=need_label, place=place)
    return " ".join(f"{name}={column}" for name, column in chosen.items())


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ("text:s label:s", "text=text label=label"),
        ("Sentence:s Label:i idx:i", "text=Sentence label=Label"),
        ("review:s text:s label:s", "text=text label=label"),
        ("title:s content:s label:i", "text=content label=label"),
        ("what:s class:s", "text=what label=class"),
        ("id:s stars:n what:s intent:s", "text=what label=intent"),
        ("tweet:s mood:s", "text=tweet label=mood"),
        ("what:s mood:i", "text=what label=mood"),
        ("what:s mood:c", "text=what label=mood"),
        ("text:s label:i label_text:s", "text=text label=label"),
        ("text:s coarse:i label:i category:s", "text=text label=label"),
        ("text:s size:i mood:c", "text=text label=mood"),
        ("sentence1:s sentence2:s label:c idx:i", "text=sentence1 text_pair=sentence2 label=label"),
        ("premise:s hypothesis:s label:c", "text=premise text_pair=hypothesis label=label"),
        ("question1:s question2:s label:c", "text=question1 text_pair=question2 label=label"),
        ("question:s sentence:s label:c", "text=question text_pair=sentence label=label"),
        ("text_pair:s text:s label:c", "text=text text_pair=text_pair label=label"),
        ("sentence_A:s sentence_B:s label:c", "text=sentence_A text_pair=sentence_B label=label"),
    ],
)
def test_obvious(columns: str, expected: str) -> None:
    assert chosen(columns) == expected


@pytest.mark.parametrize(
    ("columns", "requested", "expected"),
    [
        ("sentence1:s sentence2:s label:c", {"text": "sentence2"}, "text=sentence2 label=label"),
        (
            "sentence1:s sentence2:s label:c",
            {"text_pair": "sentence2"},
            "text=sentence1 text_pair=sentence2 label=label",
        ),
        ("text:s other:s label:s", {"text_pair": "other"}, "text=text text_pair=other label=label"),
        ("text:s label:s", {"text": "label", "label": "text"}, "text=label label=text"),
        ("a:s b:s c:s", {"text": "b", "label": "a"}, "text=b label=a"),
        ("a:s b:s", {"text": "b"}, "text=b label=a"),
        ("a:s b:s", {"label": "b"}, "text=a label=b"),
        ("stars:n label:s", {"text": "stars"}, "text=stars label=label"),
    ],
)
def test_asked(columns: str, requested: dict[str, str], expected: str) -> None:
    assert chosen(columns, **requested) == expected


IDS = {"pkg_id": ["pkg-1", "pkg_2", "a/b.c", "42"]}
CONTENT = {**IDS, "about": ["an editor", "a shell", "an editor", None], "part": ["x", "y", "x", "y"]}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (CONTENT, "text=about label=part"),
        ({**CONTENT, "more": ["1", "2", "3", "4"]}, "text=about label=part"),
        ({"name": ["Ann", "Bob", "Cleo", "Dan"], **{"part": CONTENT["part"]}}, "the text is not obvious"),
        (IDS | {"part": CONTENT["part"]}, "the text is not obvious"),
        ({**CONTENT, "notes": ["so", "it is", "then", "not"]}, "the text is not obvious"),
        (
            {"about": ["1.5 m", "2 m", "3 m", "4 m"], "size": ["1.5", "2.5", "3.0", "4.1"], **IDS},
            "the text is not obvious",
        ),
        ({}, "the text is not obvious"),
    ],
)
def test_content_decides_between_columns(content: dict[str, list[str | None]], expected: str) -> None:
    """Ids are no text and no class, values that repeat are no text; without such an answer the user is asked."""
    columns = {name: KINDS["s"] for name in content or CONTENT}
    place, requested = "a.parquet", dict.fromkeys(("text", "label"))
    try:
        chosen = choose_columns(
            columns, requested, kind="text", need_label=True, place=place, cells=lambda names: content
        )
        assert " ".join(f"{name}={column}" for name, column in chosen.items()) == expected
    except InputError as error:
        assert expected in str(error)


def test_images() -> None:
    assert chosen("image:b label:c", "image") == "image=image label=label"
    assert chosen("thumbnail:b img:b label:c", "image") == "image=img label=label"
    assert chosen("scan:b finding:s", "image") == "image=scan label=finding"
    assert chosen("scan:b", "image", need_label=False) == "image=scan"


def test_label_may_be_absent_when_it_is_not_needed() -> None:
    assert chosen("text:s", need_label=False) == "text=text"
    assert chosen("what:s id:s", need_label=False) == "text=what"
    assert chosen("text:s class:s category:s", need_label=False) == "text=text"


@pytest.mark.parametrize(
    ("columns", "requested", "kind", "expected"),
    [
        (
            "text:s label:s",
            {"text": "txt"},
            "text",
            "--text txt: a.parquet has no such column, did you mean 'text'?; it has 'text', 'label'",
        ),
        (
            "text:s label:s",
            {"label": "zzz"},
            "text",
            "--label zzz: a.parquet has no such column; it has 'text', 'label'",
        ),
        (
            "text:s label:s",
            {"text_pair": "Texd"},
            "text",
            "--text-pair Texd: a.parquet has no such column, did you mean 'text'?",
        ),
        (
            "image:b label:s",
            {"image": "imag"},
            "image",
            "--image imag: a.parquet has no such column, did you mean 'image'?",
        ),
        (
            "a:s b:s label:i",
            {},
            "text",
            "the column of the text is not obvious, it could be 'a', 'b'; name it by --text COL",
        ),
        ("review:s tweet:s label:i", {}, "text", "the text could be column 'review', 'tweet'; name it by --text COL"),
        (
            "text:s intent:s category:s",
            {},
            "text",
            "the label could be column 'intent', 'category'; name it by --label COL",
        ),
        (
            "text:s a:i b:i",
            {},
            "text",
            "the class of each row is not obvious, it could be 'a', 'b'; name it by --label COL",
        ),
        ("text:s", {}, "text", "no column holds the class of each row; there is 'text'; name it by --label COL"),
        (
            "img:b fine_label:c coarse_label:c",
            {},
            "image",
            "not obvious, it could be 'fine_label', 'coarse_label'; name it by --label COL",
        ),
        (
            "a:b b:b label:c",
            {},
            "image",
            "the column of the image is not obvious, it could be 'a', 'b'; name it by --image COL",
        ),
        (
            "text:s label:c",
            {},
            "image",
            "no column holds the image; there are 'text', 'label'; name it by --image COL",
        ),
        ("premise:s hypothesis:s sentence1:s sentence2:s label:i", {}, "text", "name it by --text COL"),
        ("n:i label:s", {"text": "n"}, "text", "column 'n' holds int64, expected text; name another by --text COL"),
        (
            "text:s image:b",
            {"label": "image"},
            "text",
            "column 'image' holds images, expected classes, tags or numbers",
        ),
        (
            "n:i label:s",
            {"image": "n"},
            "image",
            "column 'n' holds int64, expected images or their paths; name another by --image COL",
        ),
        (
            "text:s label:s",
            {"text": "text", "label": "text"},
            "text",
            "--text and --label: the same column is named twice",
        ),
    ],
)
def test_refused(columns: str, requested: dict[str, str], kind: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        chosen(columns, kind, **requested)
    assert expected in str(caught.value)
    assert "a.parquet" in str(caught.value)


def test_a_csv_file_without_a_header_is_thought_of() -> None:
    with pytest.raises(InputError, match=r"a\.csv: .*; the first line must name the columns$"):
        chosen("great:s positive:s", place="a.csv")


def test_further_splits_need_the_same_columns() -> None:
    with pytest.raises(
        InputError, match=r"^b\.csv: no column 'text', which a\.csv has, did you mean 'texts'\?; it has 'texts'$"
    ):
        require_columns({"text": "text"}, {"texts": KINDS["s"]}, place="b.csv", like="a.csv")
    with pytest.raises(InputError, match=r"^b\.csv: column 'text' holds int64, expected text"):
        require_columns({"text": "text"}, {"text": KINDS["i"]}, place="b.csv", like="a.csv")
