from pathlib import Path

import pytest

from hf_finetune import InputError
from hf_finetune.run_folder import output_folder


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("file", "--output .*/file: this is a file"),
        ("file/run", "--output .*/file/run: no folder can be made in .*/file .Not a directory.; name another one"),
        ("full", "--output .*/full: the folder is not empty"),
        ("/proc/run", "--output /proc/run: no folder can be made in /proc"),
    ],
)
def test_unusable_folders_are_refused_before_anything_is_done(tmp_path: Path, output: str, message: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("")
    with pytest.raises(InputError, match=message):
        output_folder("a", str(tmp_path / output), resume=False)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "full", "mine.txt"]


def test_the_folder_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert output_folder("my run/1", None, resume=False) == tmp_path / "runs" / "my-run-1-1"
    assert output_folder("a", "x/y/z", resume=True) == tmp_path / "x/y/z"
    assert not list(tmp_path.iterdir())


def test_what_can_be_resumed(tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("")
    with pytest.raises(InputError, match=r"no recipe\.json, this is not the folder of a run"):
        output_folder("a", str(tmp_path), resume=True)
    (tmp_path / "recipe.json").write_text("{}")
    assert output_folder("a", str(tmp_path), resume=True) == tmp_path
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(InputError, match="is finished, there is nothing to resume"):
        output_folder("a", str(tmp_path), resume=True)
