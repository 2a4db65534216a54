"""How a command leaves: its exit status, what it says on stderr, and what a signal does to it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator

from hf_finetune.errors import GateError, InputError, PushError, StoppedBySignal, TrainingError

# How long another process waits for the main one to meet the same bad input.
MAIN_PROCESS_SECONDS = 30.0


@contextlib.contextmanager
def exit_status() -> Iterator[None]:
    """Turn the package's errors into one line on stderr and an exit status; show its notes on stderr."""
    main_process = os.environ.get("RANK", "0") == "0"
    if not sys.stderr.isatty():
        # Bars of downloads would stand before the one line that says what is wrong; read when the libraries are
        # imported.
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        with _notes_shown(), _terminated_like_interrupted():
            yield
    except InputError as error:
        _leave(error, 2, main_process)
    except StoppedBySignal as error:
        _leave(error, 3, main_process)
    except GateError as error:
        _leave(error, 4, main_process)
    except (TrainingError, PushError) as error:
        _leave(error, 1, main_process)
    except KeyboardInterrupt:
        _leave("stopped before there was anything to save", 3, main_process)
    except BrokenPipeError:
        # Whoever read our output has had enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def _leave(message: object, status: int, main_process: bool) -> None:
    waits = status == 2 and not main_process
    if waits:
        # The main process meets the same bad input and says so; then the launcher ends this one. Were this one gone
        # first, the launcher would end the main process before it has spoken.
        time.sleep(MAIN_PROCESS_SECONDS)
    if main_process or waits:
        print(message, file=sys.stderr, flush=True)
    raise SystemExit(status) from None


class _HeldBack(logging.StreamHandler):
    """Holds back what the loaders say until the run itself speaks, or all is done: an error is then the first line."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.held: list[logging.LogRecord] | None = []

    def emit(self, record: logging.LogRecord) -> None:
        """Show the record, now or later."""
        if record.name == "hf_finetune.run":
            self.show()
        if self.held is None:
            super().emit(record)
        else:
            self.held.append(record)

    def show(self) -> None:
        """Show what was held back, and from now on everything at once."""
        held, self.held = self.held or [], None
        for record in held:
            super().emit(record)


@contextlib.contextmanager
def _notes_shown() -> Iterator[None]:
    """Notes of a run and warnings go to stderr, one plain line each; chatter of the libraries does not."""
    handler = _HeldBack()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger, run_logger = logging.getLogger("hf_finetune"), logging.getLogger("hf_finetune.run")
    before = logger.handlers, logger.propagate, logger.level, run_logger.level
    logger.handlers, logger.propagate = [handler], False
    quiet = os.environ.get("RANK", "0") != "0"
    logger.setLevel(logging.ERROR if quiet else logging.WARNING)
    # A loader's notes are said again by the run.
    run_logger.setLevel(logging.ERROR if quiet else logging.INFO)
    warnings.simplefilter("ignore")
    try:
        yield
        handler.show()
    finally:
        logger.handlers, logger.propagate = before[:2]
        logger.setLevel(before[2])
        run_logger.setLevel(before[3])


@contextlib.contextmanager
def notes_afterwards() -> Iterator[None]:
    """What a run notes inside is said once all went well: an error is the first line."""
    logger = logging.getLogger("hf_finetune.run")
    noted: list[logging.LogRecord] = []

    def note(record: logging.LogRecord) -> bool:
        noted.append(record)
        return False

    logger.addFilter(note)
    try:
        yield
    finally:
        logger.removeFilter(note)
    for record in noted:
        logger.handle(record)


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM is Ctrl-C; training itself, which has something to save first, handles both otherwise."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
