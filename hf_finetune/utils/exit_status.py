"""How a command ends: its exit status, its notes and errors on stderr, and its response to signals."""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from logging.handlers import MemoryHandler
from pathlib import Path
from types import FrameType

from hf_finetune.errors import RunError, StoppedBySignal
from hf_finetune.utils.console import SayHandler
from hf_finetune.utils.disk_errors import DiskError
from hf_finetune.utils.launched import end_with_launcher

# How long another process waits for the main one to report the same bad input.
MAIN_PROCESS_SECONDS = 30.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOPPED = "stopped by a signal; --resume continues from what was saved"
# After which a signal is sent again, by when the extension module has returned.
AGAIN_SECONDS = 0.05
PACKAGE_LOGGER, RUN_LOGGER = logging.getLogger("hf_finetune"), logging.getLogger("hf_finetune.run")


@contextlib.contextmanager
def exit_status() -> Iterator[None]:
    """Turn the package's errors into one line on stderr and an exit status; show its notes on stderr."""
    if not sys.stderr.isatty():
        # Download bars would precede the line that names the error. Read when the libraries are imported.
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    interrupts = _Interrupts()
    try:
        with notes_on_stderr(), interrupts.raised():
            end_with_launcher()
            yield
            print(end="", flush=True)  # sys.stdout is None where the shell has closed it
    except RunError as error:
        # A library may have made another error of the interrupt.
        if interrupts.number is not None and not isinstance(error, StoppedBySignal):
            _exit(STOPPED, 3)
        _exit(error, error.exit_status)
    except KeyboardInterrupt:
        _exit("stopped by a signal; nothing was saved", 3)
    except BrokenPipeError:
        # The reader of our output has closed it.
        _drop_failing_stdout()
        raise SystemExit(1) from None
    # Whatever a command reads or writes without a word of its own about it.
    except Exception as error:
        if interrupts.number is not None:
            _exit(STOPPED, 3)
        disk_error = DiskError.of(error)
        if disk_error is None or not disk_error.has_place:
            raise
        if disk_error.path is None and _drop_failing_stdout():
            _exit(f"stdout: cannot be written ({disk_error.reason})", 1)
        _exit(disk_error.describe(Path.cwd()), 2 if disk_error.is_of_the_path else 1)


def _drop_failing_stdout() -> bool:
    """Return whether stdout takes no more; what is left for it is dropped then, or it would fail again at the end.

    It is tried by an empty line: a failed write leaves nothing to flush.
    """
    try:
        print(flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def is_main_process() -> bool:
    """Return whether this is the process that reports and writes, before the processes of a run have met."""
    return os.environ.get("RANK", "0") == "0"


def _exit(message: object, status: int) -> None:
    if not is_main_process():
        if status not in (2, 4):
            raise SystemExit(status) from None
        # The main process meets the same bad input, or the same damaged model, and reports it; then the launcher ends
        # this process. If this one exited first, the launcher would end the main process before it could report.
        time.sleep(MAIN_PROCESS_SECONDS)
    with contextlib.suppress(OSError):  # a terminal that is gone
        print(message, file=sys.stderr, flush=True)
    raise SystemExit(status) from None


class _BufferUntilRun(MemoryHandler):
    """Buffers the notes of loaders until the run itself logs or all is done, so that an error is the first line."""

    def __init__(self, target: logging.Handler) -> None:
        super().__init__(sys.maxsize, target=target)
        self._run_has_logged = False

    def shouldFlush(self, record: logging.LogRecord) -> bool:
        # On a terminal, a line on the loading of the libraries comes first anyway.
        self._run_has_logged |= record.name == RUN_LOGGER.name or sys.stderr.isatty()
        return self._run_has_logged


@contextlib.contextmanager
def notes_on_stderr() -> Iterator[None]:
    """Print the package's notes and warnings on stderr, one plain line each, and silence the libraries."""
    handler = _BufferUntilRun(SayHandler())
    before = PACKAGE_LOGGER.handlers, PACKAGE_LOGGER.propagate, PACKAGE_LOGGER.level, RUN_LOGGER.level
    PACKAGE_LOGGER.handlers, PACKAGE_LOGGER.propagate = [handler], False
    PACKAGE_LOGGER.setLevel(logging.WARNING if is_main_process() else logging.ERROR)
    # The run repeats the notes of its loaders.
    RUN_LOGGER.setLevel(logging.INFO if is_main_process() else logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
        handler.flush()
    finally:
        handler.buffer.clear()
        PACKAGE_LOGGER.handlers, PACKAGE_LOGGER.propagate = before[:2]
        PACKAGE_LOGGER.setLevel(before[2])
        RUN_LOGGER.setLevel(before[3])


@contextlib.contextmanager
def notes_afterwards() -> Iterator[None]:
    """Log the run's notes after the block succeeds, so that an error is the first line."""
    notes: list[logging.LogRecord] = []

    def defer(record: logging.LogRecord) -> bool:
        notes.append(record)
        return False

    RUN_LOGGER.addFilter(defer)
    try:
        yield
    finally:
        RUN_LOGGER.removeFilter(defer)
    for record in notes:
        RUN_LOGGER.handle(record)


def handled(*numbers: signal.Signals) -> list[signal.Signals]:
    """Return the signals without SIGHUP where it is ignored, as under nohup; none in a thread, which handles none."""
    if threading.current_thread() is not threading.main_thread():
        return []
    return [n for n in numbers if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]


def leave_lost_terminal() -> None:
    """Drop further output if the terminal is gone, as after SIGHUP: every write to it is an error."""
    for descriptor in (1, 2):
        try:
            os.write(descriptor, b"")
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, descriptor)
            os.close(null)


class _Interrupts:
    """Treats SIGTERM and SIGHUP as Ctrl-C. Training, which saves a checkpoint first, installs its own handlers."""

    number: int | None = None
    """The signal that came."""

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        """Raise KeyboardInterrupt for signals within the block, once more where a library has swallowed it."""
        before = {number: signal.signal(number, self._interrupt) for number in handled(*SIGNALS)}
        hook, sys.unraisablehook = sys.unraisablehook, self._again
        self._hook = hook
        try:
            yield
        finally:
            sys.unraisablehook = hook
            for number, handler in before.items():
                signal.signal(number, handler)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        if number == signal.SIGHUP:
            leave_lost_terminal()
        signal.default_int_handler(number, frame)

    def _again(self, unraisable: "sys.UnraisableHookArgs") -> None:
        """Send the signal again if its exception reached an extension module that can raise none, as in pydantic."""
        if self.number is None or not issubclass(unraisable.exc_type, KeyboardInterrupt):
            self._hook(unraisable)
            return
        again = threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), self.number))
        again.daemon = True
        again.start()
