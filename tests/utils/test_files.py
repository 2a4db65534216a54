"""Writes are atomic and reach the disk; JSON and YAML that are hostile or damaged are refused in one line."""

import os
from pathlib import Path

import pytest
from helpers.damage import DOCUMENTS, YAML_BOMBS
from hypothesis import example, given
from hypothesis import strategies as st

from hf_finetune.errors import InputError
from hf_finetune.utils import files
from hf_finetune.utils.files import (
    discard,
    is_temporary,
    parse_yaml,
    put_in_place,
    read_json,
    settle,
    write_text,
)

HARMLESS = {"merge keys", "a base-60 number", "a bad binary", "a set", "ordered pairs"}


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its folder names it on the disk when the write is done, so that a power failure loses nothing."""
    done: list[tuple[str, str]] = []
    sync, rename = files.sync, os.replace

    def synced(path: Path) -> None:
        done.append(("sync", "temporary" if is_temporary(path) else path.name))
        sync(path)

    def renamed(source: Path, target: Path) -> None:
        done.append(("rename", target.name))
        rename(source, target)

    monkeypatch.setattr(files, "sync", synced)
    monkeypatch.setattr(files.os, "replace", renamed)
    write_text(tmp_path / "result.json", "{}")
    assert done == [("sync", "temporary"), ("rename", "result.json"), ("sync", tmp_path.name)]
    done.clear()
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "weights").touch()
    settle(tmp_path)
    names = ["result.json", "weights", "below", tmp_path.name]
    assert [name for _, name in done] == names, "files before the folders that name them"


def test_a_folder_that_is_killed_while_it_is_removed_has_lost_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is replaced, and when it is discarded."""
    folder, other = tmp_path / "model", tmp_path / ".model.partial"
    for path in (folder, other):
        path.mkdir()
        (path / path.name).touch()
    monkeypatch.setattr(files.shutil, "rmtree", lambda *_, **__: None)
    put_in_place(other, folder)
    assert [path.name for path in folder.iterdir()] == [".model.partial"]
    discard(folder)
    assert len(list(tmp_path.iterdir())) == 2 and all(map(is_temporary, tmp_path.iterdir()))
    discard(folder)


def test_a_long_name_leaves_room_for_the_temporary_one(tmp_path: Path) -> None:
    for name in ("n" * 255, "ü" * 127):
        write_text(tmp_path / name, "x")
        assert (tmp_path / name).read_text() == "x"


@pytest.mark.parametrize(
    ("name", "is_ours"),
    [(".recipe.json.0a1b2c3d.partial", True), (".model.partial", True), (".tmpQGGcPs", True), (".gitignore", False)],
)
def test_temporary_names(name: str, is_ours: bool) -> None:
    assert is_temporary(Path(name)) == is_ours


@pytest.mark.parametrize("name", YAML_BOMBS)
def test_yaml_bombs(name: str) -> None:
    if name in HARMLESS:
        parse_yaml(YAML_BOMBS[name])
        return
    with pytest.raises(ValueError) as caught:
        parse_yaml(YAML_BOMBS[name])
    assert "\n" not in str(caught.value)


def test_aliases_are_values_too() -> None:
    assert parse_yaml("a: &a {b: [1, 2]}\nc: *a\nd: {<<: *a, e: 3}") == {
        "a": {"b": [1, 2]},
        "c": {"b": [1, 2]},
        "d": {"b": [1, 2], "e": 3},
    }


def test_yaml_limits_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_YAML_VALUES", 7)
    assert parse_yaml("[&a [1, 2], *a]") == [[1, 2], [1, 2]]  # a list, and two of three values
    with pytest.raises(ValueError, match="more than 7 values, with those of its aliases"):
        parse_yaml("[&a [1, 2], *a, 3]")
    monkeypatch.setattr(files, "MOST_YAML_DEPTH", 2)
    assert parse_yaml("[1]") == [1]
    with pytest.raises(ValueError, match=r"nested more than 2 deep .*line 1, column 3"):
        parse_yaml("[[1]]")


def test_long_yaml_is_not_read_to_its_end() -> None:
    with pytest.raises(ValueError, match="at most 1,000,000 characters"):
        parse_yaml(Path("/dev/zero"))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_damaged_json(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(DOCUMENTS[name])
    if name in ("an empty object", "of lists", "of nulls"):
        read_json(path, "restore it")
        return
    with pytest.raises(InputError, match=r"x\.json: (not valid JSON|expected a JSON object).*; restore it$") as caught:
        read_json(path, "restore it")
    assert "\n" not in str(caught.value)


@given(st.text(alphabet=" \n-:[]{},&*a1!?|>'\"#%@.<", max_size=60))
@example("&a [*a]")
def test_any_text_is_yaml_or_refused(text: str) -> None:
    try:
        parse_yaml(text)
    except ValueError as error:
        assert "\n" not in str(error)
