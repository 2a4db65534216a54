import signal
import time

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


class Swallows:
    """As an extension module that can raise nothing: Python reports an exception of `__del__` and goes on."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        signal.raise_signal(self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_a_library_swallows_comes_again(number: int, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left, exit_status.exit_status():
        swallows = Swallows(number)
        del swallows
        for _ in range(200):
            time.sleep(0.01)
        pytest.fail("it went on")
    assert left.value.code == 3 and "Exception ignored" not in capfd.readouterr().err


@pytest.mark.parametrize("kind", [ValueError, InputError])
def test_an_interrupt_of_which_a_library_makes_another_error(
    kind: type[Exception], capfd: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as left, exit_status.exit_status():
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise kind("error building a serializer") from None
    assert left.value.code == 3
    assert capfd.readouterr().err == "stopped by a signal; --resume continues from what was saved\n"
