import fcntl
import json
import os
import socket
import time
from pathlib import Path

import psutil
import pytest
from helpers.forks import Child

from hf_finetune import InputError
from hf_finetune.utils.folder_lock import FILE, owned, refuse_owned

OWNING = """
import os, sys, time
from pathlib import Path
from hf_finetune.utils.folder_lock import owned

with owned(Path(sys.argv[1])):
    if len(sys.argv) > 2 and os.fork() == 0:
        time.sleep(2)
        os._exit(0)
    print("owns", flush=True)
    time.sleep(60)
"""


def owner_of(folder: Path, tmp_path: Path, *arguments: str) -> Child:
    """Another process that owns the folder."""
    files = {"stdout": tmp_path / "stdout", "stderr": tmp_path / "stderr"}
    for file in files.values():
        file.touch()
    child = Child(OWNING, folder, *arguments, environment=dict(os.environ), cwd=tmp_path, **files)
    while "owns" not in files["stdout"].read_text():
        time.sleep(0.01)
        assert not files["stderr"].read_text()
    return child


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def test_a_folder_has_one_owner(folder: Path, tmp_path: Path) -> None:
    """The refusal names it, and touches nothing."""
    child = owner_of(folder, tmp_path)
    try:
        before = (folder / FILE).read_text(), (folder / FILE).stat().st_mtime_ns
        message = (
            rf"run: process {child.pid} on {socket.gethostname()} has been writing there since \d{{4}}-.* UTC; wait"
        )
        with pytest.raises(InputError, match=message), owned(folder):
            pass
        with pytest.raises(InputError, match=message):
            refuse_owned(folder)
        assert ((folder / FILE).read_text(), (folder / FILE).stat().st_mtime_ns) == before
        assert os.listdir(folder) == [FILE]
    finally:
        child.kill()


@pytest.mark.parametrize("arguments", [(), ("with a child of its own",)])
def test_a_killed_owner_frees_the_folder_at_once(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, arguments: tuple[str, ...]
) -> None:
    child = owner_of(folder, tmp_path, *arguments)
    child.kill()
    refuse_owned(folder)
    with owned(folder):
        assert json.loads((folder / FILE).read_text())["pid"] == os.getpid()
    assert f"process {child.pid} on {socket.gethostname()}, which owned it since" in caplog.text
    assert not os.listdir(folder)


def test_a_process_does_not_own_a_folder_twice(folder: Path) -> None:
    with owned(folder):
        with pytest.raises(InputError, match=f"process {os.getpid()} on"), owned(folder):
            pass
        assert os.listdir(folder) == [FILE]
    assert not os.listdir(folder)


@pytest.mark.parametrize("has_locks", [True, False])
@pytest.mark.parametrize(
    ("changes", "taken_over"),
    [
        ({}, {True: False, False: False}),
        # Its number was given to another process since.
        ({"process_started": 0.0}, {True: True, False: True}),
        ({"pid": 2**22 + 1}, {True: True, False: True}),
        # Nobody can look there. Where the file system has locks, getting one shows that the owner is gone.
        ({"host": "elsewhere"}, {True: True, False: False}),
    ],
)
def test_who_may_be_followed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, has_locks: bool, changes: dict, taken_over: dict[bool, bool]
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    if not has_locks:
        monkeypatch.setattr(fcntl, "flock", no_locks)
    owner = {"pid": os.getppid(), "host": socket.gethostname(), "since": "2026-01-01 00:00:00 UTC"}
    owner |= {"process_started": psutil.Process(os.getppid()).create_time()} | changes
    (folder / FILE).write_text(json.dumps(owner))
    if taken_over[has_locks]:
        with owned(folder):
            pass
        assert not os.listdir(folder)
        return
    remedy = f"delete {folder / FILE}" if "host" in changes else "or stop it"
    with pytest.raises(InputError, match=f"since 2026-01-01 00:00:00 UTC; .*{remedy}$"), owned(folder):
        pass


def test_a_lock_that_is_not_written_yet(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / FILE).touch()
    with owned(folder):
        pass
    (folder / FILE).touch()
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(BlockingIOError))
    with pytest.raises(InputError, match="another process is writing there"), owned(folder):
        pass


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing can be written there"), owned(tmp_path / "absent"):
        pass
