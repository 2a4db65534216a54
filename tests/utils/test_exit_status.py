import pytest
from helpers.forks import run

from hf_finetune.errors import GateError, InputError, TrainingError
from hf_finetune.utils import exit_status


@pytest.mark.parametrize(
    ("rank", "error", "status", "done"),
    [
        ("0", InputError("bad"), 2, ["bad\n"]),
        # It waits for the main process to report, and reports itself if it is not ended meanwhile.
        ("1", InputError("bad"), 2, ["waited", "bad\n"]),
        ("1", GateError("bad"), 4, ["waited", "bad\n"]),
        ("1", TrainingError("bad"), 1, [""]),
    ],
)
def test_the_main_process_reports_first(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rank: str,
    error: Exception,
    status: int,
    done: list[str],
) -> None:
    monkeypatch.setenv("RANK", rank)
    seen: list[str] = []

    def waited(seconds: float) -> None:
        assert seconds > 0 and capsys.readouterr().err == ""
        seen.append("waited")

    monkeypatch.setattr(exit_status.time, "sleep", waited)
    with pytest.raises(SystemExit) as left, exit_status.exit_status():
        raise error
    assert left.value.code == status
    assert [*seen, capsys.readouterr().err] == done


CLOSED_TERMINAL = """
import os, pty, sys, time
from hf_finetune.errors import StoppedBySignal
from hf_finetune.training.checkpoints import catching_signals
from hf_finetune.utils.exit_status import exit_status

child, terminal = pty.fork()
if child == 0:
    with exit_status():
        with catching_signals() as signals:
            print("ready", flush=True)
            while not signals:
                time.sleep(0.01)
        print("saving", flush=True)
        raise StoppedBySignal("saved")
os.read(terminal, 5)
os.close(terminal)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_closed_terminal_does_not_end_what_the_signal_starts() -> None:
    """Each write to it would be an error, in the middle of the last save."""
    assert run(CLOSED_TERMINAL).stdout == "3\n"
