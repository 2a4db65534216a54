"""Cache entries are complete or absent, verified when read, and share one budget."""

import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from hf_finetune.utils import disk_cache, hashing
from hf_finetune.utils.disk_cache import CacheUnavailable, building, building_resumably, entry_folder, find, pin


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "letters" / "abc"


def write(folder: Path, content: bytes = b"abcdef", *, budget_gb: float = 1.0, needed: int = 6) -> None:
    with building(folder, needed=needed, budget_gb=budget_gb, about={"half": 3}) as build:
        build.append("data", content[:3])
        build.append("other", b"xyz")
        build.append("data", memoryview(content[3:]))


def read(folder: Path, manifest: dict) -> tuple[bytes, int]:
    return (folder / "data").read_bytes(), manifest["half"]


def names(root: Path) -> list[str]:
    return sorted(p.name for p in root.glob("*/*"))


def test_an_entry_is_found(folder: Path) -> None:
    write(folder)
    assert find(folder, read) == (b"abcdef", 3)
    assert names(folder.parents[1]) == ["abc"]
    assert disk_cache.manifest(folder)["files"]["data"] == {
        "bytes": 6,
        "sha256": "bef57ec7f53a6d40beb640a780a639c83bc29ac8a9816f1fc6c5c6dcd93c4721",
    }


def test_an_absent_entry_is_silent(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert find(folder, read) is None and not caplog.records


@pytest.mark.parametrize(
    "damage",
    [
        lambda s: (s / "data").write_bytes(b"abcdeF"),
        lambda s: (s / "other").write_bytes(b"xy"),
        lambda s: (s / "data").unlink(),
        lambda s: (s / disk_cache.MANIFEST).unlink(),
        lambda s: (s / disk_cache.MANIFEST).write_text("{"),
        lambda s: (s / disk_cache.MANIFEST).write_text("[]"),
        lambda s: (s / disk_cache.MANIFEST).write_text(json.dumps(hashing.sealed({"files": {}}))),
        lambda s: (s / disk_cache.MANIFEST).write_text((s / disk_cache.MANIFEST).read_text().replace("3", "4")),
    ],
)
def test_a_damaged_entry_is_reported_and_removed(folder: Path, caplog: pytest.LogCaptureFixture, damage) -> None:
    """The last entry is complete, but its reader misses a field."""
    write(folder)
    damage(folder)
    assert find(folder, read) is None
    assert "damaged" in caplog.text
    write(folder)
    assert find(folder, read) == (b"abcdef", 3)


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, OSError(28, "No space left on device"), CacheUnavailable("two sizes")]
)
def test_a_failed_build_leaves_nothing(folder: Path, error: BaseException) -> None:
    with (
        pytest.raises((KeyboardInterrupt, CacheUnavailable)) as caught,
        building(folder, needed=6, budget_gb=1.0, about={}) as build,
    ):
        build.append("data", b"abc")
        raise error
    assert names(folder.parents[1]) == []
    if isinstance(error, OSError):
        assert str(caught.value) == f"{folder.parent} cannot be written (No space left on device)"


def test_the_manifest_is_written_last(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that is killed before leaves no entry."""

    def die(path: Path, value: object) -> None:
        assert sorted(p.name for p in path.parent.iterdir()) == ["data", "other"]
        raise KeyboardInterrupt

    monkeypatch.setattr(disk_cache, "write_json", die)
    with pytest.raises(KeyboardInterrupt):
        write(folder)
    assert names(folder.parents[1]) == []


def test_the_first_of_two_concurrent_builds_is_kept(folder: Path) -> None:
    with building(folder, needed=6, budget_gb=1.0, about={"half": 3}) as build:
        write(folder)
        build.append("data", b"slower")
    assert find(folder, read) == (b"abcdef", 3) and names(folder.parents[1]) == ["abc"]


def aged(root: Path) -> tuple[list[Path], int]:
    """Return three entries of two kinds, least recently used first, and the bytes of one."""
    folders = [root / "letters" / "a", root / "numbers" / "b", root / "letters" / "c"]
    for age, folder in enumerate(folders):
        write(folder)
        os.utime(folder / disk_cache.MANIFEST, (1000 + age, 1000 + age))
    return folders, sum(f.stat().st_size for f in folders[0].iterdir())


def test_the_least_recently_used_entry_of_any_kind_is_evicted(tmp_path: Path) -> None:
    folders, size = aged(tmp_path)
    new = tmp_path / "letters" / "d"
    write(new, needed=size, budget_gb=4 * size / 1e9)
    assert names(tmp_path) == ["a", "b", "c", "d"]
    shutil.rmtree(new)
    find(folders[0], read)  # now the most recently used
    write(new, needed=size, budget_gb=3 * size / 1e9)
    assert names(tmp_path) == ["a", "c", "d"]


def test_pinned_entries_are_not_evicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_cache, "_PINNED", set())
    folders, size = aged(tmp_path)
    pin(folders[0])
    pin(folders[1])
    with pytest.raises(CacheUnavailable, match=r"beside what is in use, batching\.cache_gb allows 0\.00000\d+ in all"):
        write(tmp_path / "letters" / "d", needed=2 * size, budget_gb=3 * size / 1e9)
    assert names(tmp_path) == ["a", "b", "c"], "nothing is evicted in vain"
    write(tmp_path / "letters" / "d", needed=size, budget_gb=3 * size / 1e9)
    assert names(tmp_path) == ["a", "b", "d"]


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "letters" / "a")
    new = tmp_path / "letters" / "b"
    with pytest.raises(CacheUnavailable, match=r"^3\.00 GB are needed, batching\.cache_gb allows 2\.00$"):
        write(new, needed=3_000_000_000, budget_gb=2)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 1_500_000_000))
    with pytest.raises(CacheUnavailable, match=r"1\.00 GB are needed and 1 GB to spare"):
        write(new, needed=1_000_000_000, budget_gb=2)
    with pytest.raises(CacheUnavailable, match=r"^0\.0034 GB are needed, batching\.cache_gb allows 0\.0000012$"):
        write(new, needed=3_400_000, budget_gb=1.2e-6)
    write(new, needed=400_000_000, budget_gb=2)
    assert names(tmp_path) == ["a", "b"]


def test_abandoned_builds_are_removed(tmp_path: Path, folder: Path) -> None:
    for name, age in ((".partial-old", 2 * disk_cache.ABANDONED_AFTER_SECONDS), (".partial-new", 0)):
        partial = tmp_path / "numbers" / name
        partial.mkdir(parents=True)
        (partial / "data").touch()
        then = partial.stat().st_mtime - age
        for path in (partial / "data", partial):
            os.utime(path, (then, then))
    write(folder)
    assert names(tmp_path) == [".partial-new", "abc"]


def test_the_folder_depends_on_every_field_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path))
    one = entry_folder("letters", {"a": 1, "b": 2})
    assert one == entry_folder("letters", {"b": 2, "a": 1}) != entry_folder("letters", {"a": 1, "b": 3})
    assert one.parent == tmp_path / "letters"


def test_a_resumable_build_finds_the_files_of_a_killed_one(folder: Path) -> None:
    """The manifest names all files once the block succeeds. A second build of the same entry changes nothing."""
    fields = {"needed": 6, "budget_gb": 1.0, "about": {"half": 3}}
    with pytest.raises(KeyboardInterrupt), building_resumably(folder, **fields) as unfinished:
        (unfinished / "data").write_bytes(b"abc")
        # As if killed while writing a file, and again while finishing.
        (unfinished / ".other.x").write_bytes(b"x")
        (unfinished / disk_cache.MANIFEST).write_text("{}")
        raise KeyboardInterrupt
    assert find(folder, read) is None and names(folder.parents[1]) == [".growing-abc"]
    with building_resumably(folder, **fields) as unfinished:
        assert (unfinished / "data").read_bytes() == b"abc"
        (unfinished / "data").write_bytes(b"abcdef")
    assert find(folder, read) == (b"abcdef", 3) and names(folder.parents[1]) == ["abc"]
    assert list(disk_cache.manifest(folder)["files"]) == ["data"] and not (folder / ".other.x").exists()
    with building_resumably(folder, **fields) as unfinished:
        (unfinished / "data").write_bytes(b"other")
    assert find(folder, read) == (b"abcdef", 3) and names(folder.parents[1]) == ["abc"]


def test_an_abandoned_build_may_be_evicted(folder: Path) -> None:
    """A recent build may still be running. A build without room leaves nothing."""
    fields = {"budget_gb": 1e-8, "about": {}}
    with pytest.raises(KeyboardInterrupt), building_resumably(folder, needed=8, **fields) as unfinished:
        (unfinished / "data").write_bytes(b"abcdefgh")
        raise KeyboardInterrupt
    other = folder.with_name("other")
    write(other, budget_gb=1e-8, needed=6)
    assert names(folder.parents[1]) == [".growing-abc", "other"]
    shutil.rmtree(other)
    for file in (unfinished / "data", unfinished):
        os.utime(file, (1, 1))
    write(other, budget_gb=1e-8, needed=6)
    assert names(folder.parents[1]) == ["other"]
    with pytest.raises(CacheUnavailable), building_resumably(folder, needed=11, **fields):
        pass
    assert names(folder.parents[1]) == ["other"]
