"""Exit status of the launcher after a process failed, and its port."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate.commands import launch as accelerate_launch
from accelerate.utils import launch as accelerate_utils
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from hf_finetune.cli.launcher import launch
from hf_finetune.errors import TrainingError


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
