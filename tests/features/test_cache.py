import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_finetune.features import cache
from hf_finetune.features.cache import key_of, make_room, open_store, write_store

WIDTH = 3
LENGTHS = [2, 5, 1, 4]


def rows(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Four rows of 2, 5, 1 and 4 tokens: row r holds r, r + 0.5, ..."""
    return [(r + torch.arange(n * WIDTH) / 2).view(n, WIDTH).to(dtype) for r, n in enumerate(LENGTHS)]


def write(folder: Path, dtype: torch.dtype = torch.float32) -> None:
    made = rows(dtype)
    chunks = [(np.array([2, 0]), [made[2], made[0]]), (np.array([3, 1]), [made[3], made[1]])]
    write_store(folder, iter(chunks), rows=4, width=WIDTH, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_come_back_as_they_were_written(tmp_path: Path, dtype: torch.dtype) -> None:
    write(tmp_path / "store", dtype)
    store = open_store(tmp_path / "store")
    assert [tuple(store[i].shape) for i in range(4)] == [(n, WIDTH) for n in LENGTHS]
    for i, row in enumerate(rows(dtype)):
        assert store[i].dtype == dtype and torch.equal(store[i], row)
    assert store.size == 12 * WIDTH * dtype.itemsize and store.lengths_N.tolist() == LENGTHS
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


def test_absent_store_is_no_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert open_store(tmp_path / "store") is None and not caplog.records


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def empty_manifest(path: Path) -> None:
    (path / cache.MANIFEST).write_text("{")


def other_manifest(path: Path) -> None:
    (path / cache.MANIFEST).write_text(json.dumps({"files": {}, "width": WIDTH, "dtype": "int8"}))


@pytest.mark.parametrize(
    "damage",
    [
        lambda s: flip(s / cache.TOKENS),
        lambda s: flip(s / cache.TABLE),
        lambda s: os.truncate(s / cache.TOKENS, 20),
        lambda s: (s / cache.TABLE).unlink(),
        lambda s: (s / cache.MANIFEST).unlink(),
        empty_manifest,
        other_manifest,
    ],
)
def test_damaged_store_is_noticed_and_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage) -> None:
    folder = tmp_path / "store"
    write(folder)
    damage(folder)
    assert open_store(folder) is None
    assert "damaged" in caplog.text and "built anew" in caplog.text
    write(folder)
    assert torch.equal(open_store(folder)[1], rows()[1])


def test_broken_build_leaves_nothing(tmp_path: Path) -> None:
    def chunks():
        yield np.array([0]), [rows()[0]]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path / "store", chunks(), rows=4, width=WIDTH, dtype=torch.float32)
    assert list(tmp_path.iterdir()) == []


def test_least_recently_used_goes_first(tmp_path: Path) -> None:
    for name in "abc":
        write(tmp_path / name)
    size = sum(f.stat().st_size for f in (tmp_path / "a").iterdir())
    for age, name in enumerate("abc"):
        os.utime(tmp_path / name / cache.MANIFEST, (1000 + age, 1000 + age))
    assert make_room(tmp_path, size, 4 * size) is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c"]
    open_store(tmp_path / "a")  # used: now the youngest
    assert make_room(tmp_path, size, 3 * size) is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "c"]


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a")
    reason = make_room(tmp_path, 3_000_000_000, 2_000_000_000)
    assert reason == "3.00 GB are needed, batching.cache_gb allows 2.00"
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 1_500_000_000))
    assert "1.00 GB are needed and 1 GB to spare" in make_room(tmp_path, 1_000_000_000, 2_000_000_000)
    assert make_room(tmp_path, 400_000_000, 2_000_000_000) is None
    assert [p.name for p in tmp_path.iterdir()] == ["a"], "nothing goes where nothing is gained"


def test_abandoned_builds_are_removed(tmp_path: Path) -> None:
    for name, age in ((".partial-old", 2 * cache.ABANDONED_AFTER_SECONDS), (".partial-new", 0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / cache.TOKENS).touch()
        then = (tmp_path / name).stat().st_mtime - age
        for path in (tmp_path / name / cache.TOKENS, tmp_path / name):
            os.utime(path, (then, then))
    make_room(tmp_path, 1, 10)
    assert [p.name for p in tmp_path.iterdir()] == [".partial-new"]


def test_key_depends_on_every_part() -> None:
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1}) != key_of({"a": 1, "b": 3})
