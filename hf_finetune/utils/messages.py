"""Parts of messages: lists of names, suggestions for misspelled names, collected notes; and silence."""

import difflib
import io
import logging
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any

logger = logging.getLogger("hf_finetune")


@contextmanager
def silenced() -> Iterator[None]:
    """Suppress warnings, log messages up to warnings, and progress bars of this package and of all libraries."""
    with silenced_logs(), redirect_stderr(io.StringIO()):
        yield


@contextmanager
def silenced_logs() -> Iterator[None]:
    """Suppress log messages up to warnings. Handlers of libraries hold the stderr of their first import."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)


def install_command(extra: str) -> str:
    """Return the command that installs an extra of this package."""
    return f"pip install 'hf_finetune[{extra}]'"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `, did you mean 'x'?` if a known name is similar, else an empty string.

    Flags are compared without their dashes, which all of them share.
    """
    by_lower = {k.lower().lstrip("-"): k for k in known}
    close = difflib.get_close_matches(name.lower().lstrip("-"), by_lower, n=1, cutoff=0.6)
    return f", did you mean {by_lower[close[0]]!r}?" if close else ""


def listed(names: Sequence[str], most: int = 5) -> str:
    """Join names on one line, at most `most` of them."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(printable(name) for name in names[:most]) + more


def plural(number: int, one: str, many: str | None = None) -> str:
    """Return the words that go with a number: `plural(count, "row is", "rows are")`.

    Args:
        many: None: `one` with an s.
    """
    if number == 1:
        return one
    return f"{one}s" if many is None else many


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return a number and the words that go with it, see `plural`: `1 row`, `1,200 rows`."""
    return f"{number:,} {plural(number, one, many)}"


def row_place(row: int, line: int | None = None) -> str:
    """Return the number of a row for messages: from 0, as in predictions, dropped.csv and pandas.

    Args:
        line: of a text file or sheet, from 1, as an editor shows it.
    """
    return f"row {row} counted from 0" if line is None else f"row {row} (line {line})"


def printable(name: str) -> str:
    """Return a name on one line of UTF-8: bytes of file names that are not UTF-8 are escaped."""
    return " ".join(name.splitlines()).encode("utf-8", "backslashreplace").decode("utf-8")


def cut(text: str, width: int) -> str:
    """Cut the middle out of a text, so that it takes at most `width` columns of a terminal.

    Names of classes often differ at the end. A wide character, as of Chinese, takes two columns.
    """
    from rich.cells import cell_len

    if cell_len(text) <= width:
        return text
    end, start = text, cut_end(text, width // 2 + 2)
    while cell_len(start) + cell_len(end) > width:
        end = end[1:]
    return start + end


def cut_end(text: str, width: int) -> str:
    """Cut the end off a text, so that it takes at most `width` columns of a terminal."""
    from rich.cells import cell_len, set_cell_size

    return text if cell_len(text) <= width else f"{set_cell_size(text, width - 3)}..."


def quoted(names: Iterable[str]) -> str:
    """Join quoted names on one line, at most 12 of them."""
    return listed([repr(name) for name in names], most=12)


class Notes(list[str]):
    """Notes for the user, each logged as it is added."""

    def add(self, note: str) -> None:
        """Log a note and collect it."""
        logger.info(note)
        self.append(note)


def short(value: Any, most: int = 60) -> str:
    """Return the repr of a value of the user's on one line, at most `most` characters of it."""
    text = reprlib.repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def one_line(error: Exception, most: int = 150) -> str:
    """Return the message of a library's error on one line, at most `most` characters of it."""
    return " ".join(str(error).split())[:most] or type(error).__name__
