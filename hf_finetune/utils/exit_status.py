"""How a command ends: its exit status, its notes and errors on stderr, and its response to signals."""

import contextlib
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from logging.handlers import MemoryHandler

from hf_finetune.errors import RunError

# How long another process waits for the main one to report the same bad input.
MAIN_PROCESS_SECONDS = 30.0
PACKAGE_LOGGER, RUN_LOGGER = logging.getLogger("hf_finetune"), logging.getLogger("hf_finetune.run")


@contextlib.contextmanager
def exit_status() -> Iterator[None]:
    """Turn the package's errors into one line on stderr and an exit status; show its notes on stderr."""
    if not sys.stderr.isatty():
        # Download bars would precede the line that names the error. Read when the libraries are imported.
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        with _notes_on_stderr(), _sigterm_as_interrupt():
            yield
    except RunError as error:
        _exit(error, error.exit_status)
    except KeyboardInterrupt:
        _exit("stopped before there was anything to save", 3)
    except BrokenPipeError:
        # The reader of our output has closed it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def _is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _exit(message: object, status: int) -> None:
    if not _is_main_process():
        if status != 2:
            raise SystemExit(status) from None
        # The main process meets the same bad input and reports it; then the launcher ends this process. If this one
        # exited first, the launcher would end the main process before it could report.
        time.sleep(MAIN_PROCESS_SECONDS)
    print(message, file=sys.stderr, flush=True)
    raise SystemExit(status) from None


class _BufferUntilRun(MemoryHandler):
    """Buffers the notes of loaders until the run itself logs or all is done, so that an error is the first line."""

    def __init__(self, target: logging.Handler) -> None:
        super().__init__(sys.maxsize, target=target)
        self._run_has_logged = False

    def shouldFlush(self, record: logging.LogRecord) -> bool:
        self._run_has_logged |= record.name == RUN_LOGGER.name
        return self._run_has_logged


@contextlib.contextmanager
def _notes_on_stderr() -> Iterator[None]:
    """Print the package's notes and warnings on stderr, one plain line each, and silence the libraries."""
    handler = _BufferUntilRun(logging.StreamHandler(sys.stderr))
    before = PACKAGE_LOGGER.handlers, PACKAGE_LOGGER.propagate, PACKAGE_LOGGER.level, RUN_LOGGER.level
    PACKAGE_LOGGER.handlers, PACKAGE_LOGGER.propagate = [handler], False
    PACKAGE_LOGGER.setLevel(logging.WARNING if _is_main_process() else logging.ERROR)
    # The run repeats the notes of its loaders.
    RUN_LOGGER.setLevel(logging.INFO if _is_main_process() else logging.ERROR)
    warnings.simplefilter("ignore")
    try:
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


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C; training, which saves a checkpoint first, installs its own handlers."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
