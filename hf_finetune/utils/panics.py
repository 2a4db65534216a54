"""Panics of libraries in Rust: they are no Exceptions, and the library itself prints a trace on stderr."""

import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any, TypeVar

from hf_finetune.errors import InputError
from hf_finetune.utils.messages import one_line, row_place, short

T = TypeVar("T")
STDERR = 2


class Panic(Exception):
    """A library in Rust panicked, for the reason in the message."""


class _HeldStderr:
    """What is written to stderr by any thread while a block is open, passed on at its end unless one panicked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._panicked = False
        self._own = -1
        self._file: IO[bytes] | None = None

    def open(self) -> None:
        with self._lock:
            self._blocks += 1
            if self._blocks > 1:
                return
            self._panicked = False
            self._file = None
            with suppress(OSError):  # there is no room for the file, or no stderr
                file = tempfile.TemporaryFile()  # noqa: SIM115
                self._own = os.dup(STDERR)
                os.dup2(file.fileno(), STDERR)
                self._file = file

    def close(self, *, panicked: bool) -> None:
        with self._lock:
            self._blocks -= 1
            self._panicked |= panicked
            if self._blocks or self._file is None:
                return
            os.dup2(self._own, STDERR)
            os.close(self._own)
            if not self._panicked:
                self._file.seek(0)
                if written := self._file.read():
                    os.write(STDERR, written)
            self._file.close()


_HELD = _HeldStderr()


@contextmanager
def panics_raised() -> Iterator[None]:
    """Raise a `Panic` where a library panics in the block, without its trace.

    Raises:
        Panic: with the library's reason.
    """
    _HELD.open()
    panicked = False
    try:
        yield
    except BaseException as error:
        panicked = type(error).__name__ == "PanicException"
        if not panicked:
            raise
        raise Panic(one_line(Exception(str(error)), most=200)) from None
    finally:
        _HELD.close(panicked=panicked)


def tokenize(
    tokenizer: Callable[..., T],
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    name: str = "the checkpoint",
    rows: Sequence[int] | None = None,
    **options: Any,
) -> T:
    """Return what a tokenizer makes of a batch of texts, or of pairs.

    Args:
        name: of the checkpoint, for the message.
        rows: numbers of the rows of the texts, from 0, for the message.
        options: of the tokenizer.

    Raises:
        InputError: it panics on a text, as one whose regular expression backtracks without end does.
    """
    try:
        with panics_raised():
            return tokenizer(texts, pairs, **options)
    except Panic as panic:
        first = next((i for i in range(len(texts)) if _panics(tokenizer, texts, pairs, i, options)), 0)
        text = "a text" if rows is None else f"the text of {row_place(rows[first])}"
        why = f"cannot split {text} ({short(texts[first])}): {panic}"
        remedy = "leave the text out, or use another checkpoint"
        raise InputError(f"{name}: its tokenizer {why}; {remedy}") from None


def _panics(tokenizer: Callable[..., Any], texts: Any, pairs: Any, i: int, options: dict[str, Any]) -> bool:
    try:
        with panics_raised():
            tokenizer(texts[i : i + 1], None if pairs is None else pairs[i : i + 1], **options)
    except Panic:
        return True
    return False
