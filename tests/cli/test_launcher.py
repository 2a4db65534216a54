"""Exit status of the launcher after a process failed, and its port."""

import os
import queue
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from accelerate.commands import launch as accelerate_launch
from accelerate.utils import launch as accelerate_utils
from helpers.forks import HANG_S, Child
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from hf_finetune.cli.launcher import launch
from hf_finetune.errors import InputError, TrainingError
from hf_finetune.utils import launched


def end_with(monkeypatch: pytest.MonkeyPatch, exitcode: int) -> None:
    def fail(_: object) -> None:
        failure = ProcessFailure(local_rank=1, pid=1, exitcode=exitcode, error_file="")
        raise ChildFailedError("hf_finetune", {1: failure})

    monkeypatch.setattr(accelerate_launch, "launch_command", fail)


@pytest.mark.parametrize("status", [1, 2, 3, 4])
def test_exit_status_is_that_of_the_first_failure(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    end_with(monkeypatch, status)
    with pytest.raises(SystemExit) as stopped:
        launch(["hf-finetune", "train"], 2, mixed_precision="no")
    assert stopped.value.code == status


def test_killed_process_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    end_with(monkeypatch, -9)
    with pytest.raises(TrainingError, match="killed by SIGKILL; --resume"):
        launch(["hf-finetune", "train"], 2, mixed_precision="no")


@pytest.fixture
def own_signals() -> Iterator[None]:
    """Restore the signal handlers that torch's launcher replaces."""
    before = {
        which: signal.getsignal(which) for which in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    }
    yield
    for which, handler in before.items():
        signal.signal(which, handler)


@pytest.mark.usefixtures("own_signals")
def test_port_taken_by_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process opens the port that Accelerate believes free."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    script = tmp_path / "meet.py"
    script.write_text(
        "import os, sys\nfrom pathlib import Path\nimport torch\n"
        "torch.distributed.init_process_group('gloo')\n"
        "ranks = torch.tensor(torch.distributed.get_rank() + 1)\n"
        "torch.distributed.all_reduce(ranks)\n"
        "Path(sys.argv[1], os.environ['RANK']).write_text(f\"{int(ranks)} {os.environ['MASTER_PORT']}\")\n"
        "torch.distributed.destroy_process_group()\n"
    )
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        taken = other.getsockname()[1]
        monkeypatch.setattr(accelerate_utils, "get_free_port", lambda: taken)
        monkeypatch.setattr(accelerate_utils, "is_port_in_use", lambda _: False)
        launch([str(script), str(tmp_path)], 2, mixed_precision="no")
    (first, port), (second, same) = ((tmp_path / rank).read_text().split() for rank in "01")
    assert first == second == "3" and port == same != str(taken)


# Each process of the launch notes its number, and how it leaves.
WAITING = """
import os, sys, time
from pathlib import Path
from hf_finetune.utils.exit_status import exit_status

note = Path(sys.argv[1], os.environ["RANK"])
with exit_status():
    note.with_suffix(".new").write_text(str(os.getpid()))
    note.with_suffix(".new").rename(note)
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(2)  # in which a second signal would come
        note.with_suffix(".left").touch()
        raise
"""


def test_processes_end_with_a_launcher_that_is_killed(tmp_path: Path) -> None:
    """They get SIGTERM, after which training saves a checkpoint; not a second one, which would end it at once."""
    script = tmp_path / "wait.py"
    script.write_text(WAITING)
    code = "import sys; from hf_finetune.cli.launcher import launch; launch(sys.argv[1:], 2, mixed_precision='no')"
    files = {"stdout": tmp_path / "stdout", "stderr": tmp_path / "stderr"}
    child = Child(code, script, tmp_path, environment=dict(os.environ), cwd=Path.cwd(), **files)
    notes = [tmp_path / "0", tmp_path / "1"]
    while not all(note.exists() for note in notes):
        assert child.returncode is None
        time.sleep(0.02)
    processes = [psutil.Process(int(note.read_text())) for note in notes]
    child.kill()
    assert not psutil.wait_procs(processes, timeout=20)[1]
    assert all(note.with_suffix(".left").exists() for note in notes)


def test_the_signal_comes_once_when_the_launcher_has_died(monkeypatch: pytest.MonkeyPatch) -> None:
    runs, sent = [True, True, False], []
    monkeypatch.setattr(launched, "_runs", lambda launcher: launcher == 7 and runs.pop(0))
    monkeypatch.setattr(launched.os, "kill", lambda *args: sent.append(args))
    launched._watch(7, seconds=0.0)
    assert sent == [(os.getpid(), signal.SIGTERM)]


def test_only_a_dead_launcher_does_not_run() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    assert launched._runs(os.getpid()) and not launched._runs(dead.pid)


def test_the_launcher_that_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that has called `launch` may start others, by Accelerate or itself: our launcher is further up."""
    watched: queue.Queue[int] = queue.Queue()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    monkeypatch.setattr(launched, "_watch", watched.put)
    monkeypatch.delenv(launched.LAUNCHER, raising=False)
    launched.end_with_launcher()
    assert watched.get(timeout=HANG_S) == os.getppid()
    monkeypatch.setenv(launched.LAUNCHER, "7")
    launched.end_with_launcher()
    assert watched.get(timeout=HANG_S) == 7


def test_processes_without_a_launcher_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setattr(launched, "_watch", lambda _: pytest.fail("no launcher"))
    launched.end_with_launcher()


def test_under_nohup_the_launcher_ignores_a_closed_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    end_with(monkeypatch, 1)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with pytest.raises(SystemExit):
            launch(["hf-finetune", "train"], 2, mixed_precision="no")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] == "SIGTERM,SIGINT,SIGQUIT"


@pytest.mark.parametrize(("requested", "started"), [(2, None), (None, "2")])
def test_what_needs_one_process_refuses_several(
    requested: int | None, started: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that another launcher has started, such as `accelerate launch`."""
    launched.refuse_processes("method auto", 1)
    if started is not None:
        monkeypatch.setenv("WORLD_SIZE", started)
    with pytest.raises(InputError, match="--num-processes 2: expected 1 with method auto"):
        launched.refuse_processes("method auto", requested)
