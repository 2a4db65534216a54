"""JSON that arrives in parts of any length is read as json.loads reads it, and no value beyond the limit is read."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_finetune.data.config import DataLimits
from hf_finetune.data.readers import json_stream
from hf_finetune.data.readers.json_stream import JsonStream
from hf_finetune.errors import InputError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "CHARACTERS_AT_ONCE", 1)


def stream(text: str, length: int = 3, **limits: int) -> JsonStream:
    parts = (text[i : i + length] for i in range(0, len(text), length))
    return JsonStream(Path("a.json"), parts, DataLimits(**limits))


def items(text: str, length: int = 3, **limits: int) -> list:
    reader = stream(text, length, **limits)
    assert reader.peek() == "["
    return list(reader.items())


@settings(max_examples=60, deadline=None)
@given(st.lists(VALUES, max_size=5), st.sampled_from((None, 1)), st.integers(1, 9), st.booleans())
def test_any_list(values: list, indent: int | None, length: int, ascii_only: bool) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only)
    # As text: NaN is unequal to itself.
    assert repr(items(f" {text}\n", length)) == repr(json.loads(text))


@pytest.mark.parametrize(
    "text",
    ["[", "[1", "[1,", "[1,]", "[,1]", "[1 2]", "[1] 2", '["a', '["a\\', "[tru]", '[{"a" 1}]', "[1]\n]", '[\n"a\\x"]'],
)
def test_what_is_malformed_is_found_where_json_finds_it(text: str) -> None:
    with pytest.raises(json.JSONDecodeError) as expected:
        json.loads(text)
    with pytest.raises(InputError) as caught:
        items(text, 2)
    error = expected.value
    assert str(caught.value) == f"a.json, line {error.lineno}, column {error.colno}: not JSON ({error.msg})"


def test_a_value_beyond_the_limit_is_not_read() -> None:
    assert items('["abcd", 12]', row_characters=6) == ["abcd", 12]
    for value in ('"abcde"', "[1,2,3]", "1234567"):
        with pytest.raises(
            InputError, match=r"a.json, row 1 counted from 0: more than 6 characters; .*--data.limits.row-characters"
        ):
            items(f"[0, {value}]", row_characters=6)

    def endless():
        yield "["
        while True:
            yield "[],"

    with pytest.raises(InputError, match="more than 100 characters"):
        JsonStream(Path("a.json"), endless(), DataLimits(row_characters=100)).value()


def test_only_what_is_needed_is_read() -> None:
    parts = iter(['[{"a": 1}, ', '{"a": 2}, ', "not JSON"])
    reader = JsonStream(Path("a.json"), parts, DataLimits())
    reader.peek()
    assert next(reader.items()) == {"a": 1} and "not JSON" in list(parts)
