import os
from pathlib import Path

import pytest

from hf_finetune.utils import files
from hf_finetune.utils.files import is_temporary, settle, write_text


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
