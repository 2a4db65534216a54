"""What people read: tables in plain text, and the progress of long work on stderr."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Self

from hf_finetune.utils.messages import cut, printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

RUN_LOGGER = logging.getLogger("hf_finetune.run")
INTERVAL = 5.0
"""Seconds between two lines on progress where there is no terminal."""
SILENCE = 2.0
"""Seconds after which the start of work is a line where there is no terminal."""
WIDTH = 80


# Tables


def line_width() -> int:
    """Return the width of the terminal, else 80."""
    return shutil.get_terminal_size((WIDTH, 24)).columns


def table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), width: int | None = None, least: int = 8) -> str:
    """Align the cells of rows in columns, two spaces apart, without lines and colors.

    Args:
        rows: cells on one line each; the first row may hold titles. A wide character, as of Chinese, takes two columns.
        right: numbers of the columns that are aligned on the right.
        width: largest width, for which cells of the first column are cut in the middle: names often differ at the end.
            None: that of the terminal, else 80.
        least: least width of the first column.
    """
    from rich.cells import cell_len

    if not rows:
        return ""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    room = (line_width() if width is None else width) - sum(widths[1:]) - 2 * (len(widths) - 1)
    widths[0] = min(widths[0], max(least, room))
    lines = []
    for row in cells:
        padded = []
        for number, (cell, of_column) in enumerate(zip((cut(row[0], widths[0]), *row[1:]), widths, strict=True)):
            gap = " " * (of_column - cell_len(cell))
            padded.append(gap + cell if number in right else cell + gap)
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def paragraph(title: str, text: str, *, width: int | None = None) -> str:
    """Return a line `title         text`, wrapped at `width` below the text; None: at that of the terminal."""
    return wrapped(f"{title:<13} {text}", indent=14, width=width)


def wrapped(line: str, *, indent: int = 9, width: int | None = None) -> str:
    """Wrap a line at `width`, None: at that of the terminal; the further lines are indented."""
    lines = textwrap.wrap(
        line,
        line_width() if width is None else width,
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
        drop_whitespace=True,
    )
    return "\n".join(lines)


# Progress


@cache
def say_loading() -> None:
    """Print a first line at once on a terminal: imports take seconds. Elsewhere an error is the first line."""
    from importlib.metadata import version

    if is_terminal() and not {"-h", "--help", "--help-all"} & set(sys.argv):
        say(f"hf-finetune {version('hf_finetune')}: loading ...")


class Progress:
    """Work that is shown while it is done: `with Progress("evaluate", total=len(rows)) as task: task.update(64)`.

    On a terminal it is a bar with the time, below the log, and erased at the end. Elsewhere it is a line of the log
    every `INTERVAL` seconds, where a carriage return would be in the way. Work within other work is shown below it.
    """

    def __init__(
        self,
        title: str,
        *,
        total: int | None = None,
        unit: str = "row",
        done: int = 0,
        quiet: bool = False,
        slow: bool = False,
    ) -> None:
        """Describe the work.

        Args:
            total: number of units. None: unknown.
            unit: what is counted, in the singular.
            done: number of units that were done before.
            quiet: without a terminal, do not log the start: an error of the input has to be the first line.
            slow: without a terminal, log the start in any case: there is no count that would be logged later.
        """
        self.title, self.total, self.unit, self.done, self.quiet, self.slow = title, total, unit, done, quiet, slow
        self.remark = ""
        self._started = time.monotonic()
        self._shown: int | None = None

    def __enter__(self) -> Self:
        """Show it."""
        self._started = time.monotonic()
        if is_terminal():
            self._shown = _terminal.add(self)
        else:
            _log.start(self)
        return self

    def __exit__(self, *_: object) -> None:
        """Show it no more."""
        self.close()

    def close(self) -> None:
        """Show it no more."""
        if self._shown is not None:
            _terminal.remove(self._shown)
            self._shown = None

    def update(self, units: int = 1, *, remark: str | None = None) -> None:
        """Count units that are done.

        Args:
            remark: shown beside the count, such as a loss.
        """
        self.done += units
        self.remark = self.remark if remark is None else remark
        if self._shown is not None:
            _terminal.show(self._shown, self)
        else:
            _log.show(self)

    @property
    def counts(self) -> str:
        """The count and the remark: `1,200 of 5,000 rows, loss 0.31`."""
        of = "" if self.total is None else f" of {self.total:,}"
        units = f"{self.done:,}{of} {self.unit}{'s' * ((self.total or self.done) != 1)}"
        return ", ".join(part for part in (units if self.done or self.total else "", self.remark) if part)

    @property
    def seconds(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self._started


def say(line: str) -> None:
    """Print a line on stderr, above the bars of a terminal."""
    if _terminal.is_live:
        _terminal.print(line)
    elif sys.stderr is not None:
        print(line, file=sys.stderr, flush=True)


class SayHandler(logging.Handler):
    """Prints log records by `say`."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        try:
            say(self.format(record))
        except Exception:
            self.handleError(record)


def show_board(text: str) -> bool:
    """Show lines above the bars of a terminal while anything is in progress, in place of those before.

    Returns:
        Whether there is a terminal. Elsewhere nothing is shown.
    """
    _terminal.board = text
    return is_terminal()


def begin_call() -> None:
    """Count the silence from now on: a call from Python is not silent since the last one."""
    _log.reset()


class _Log:
    """Progress as lines of the log."""

    def __init__(self) -> None:
        self._last: float | None = None

    def reset(self) -> None:
        self._last = None

    def start(self, task: Progress) -> None:
        now = time.monotonic()
        self._last = now if self._last is None else self._last
        if task.slow or (not task.quiet and now - self._last >= SILENCE):
            self._write(task)

    def show(self, task: Progress) -> None:
        # Of a quiet task an error of the input has to be the first line, whatever came before it.
        is_due = time.monotonic() - (self._last or 0.0) >= INTERVAL
        if is_due and (not task.quiet or task.seconds >= INTERVAL):
            self._write(task)

    def _write(self, task: Progress) -> None:
        self._last = time.monotonic()
        counts = f": {task.counts}" if task.counts else " ..."
        RUN_LOGGER.info("%s%s%s", task.title, counts, f", {task.seconds:.0f} s" if task.seconds >= 1 else "")


class _Terminal:
    """Progress as bars of rich. A thread moves the time, which shows that a long import or fit is not dead."""

    def __init__(self) -> None:
        self.board = ""
        """Lines above the bars, as a table that grows."""
        self._bars: Bars | None = None
        self._process = 0

    @property
    def is_live(self) -> bool:
        """Whether bars are on the terminal; never in a process that was forked meanwhile, whose locks may be taken."""
        return self._bars is not None and self._process == os.getpid()

    def add(self, task: Progress) -> int | None:
        if self._bars is not None and not self.is_live:
            return None
        if self._bars is None:
            self._bars, self._process = _bars(), os.getpid()
            self._bars.start()
        return self._bars.add_task(task.title, total=task.total, completed=task.done, counts=task.counts)

    def show(self, number: int, task: Progress) -> None:
        if self._bars is not None and self.is_live:
            self._bars.update(number, total=task.total, completed=task.done, counts=task.counts)  # type: ignore[arg-type]

    def remove(self, number: int) -> None:
        if self._bars is None or not self.is_live:
            return
        self._bars.remove_task(number)  # type: ignore[arg-type]
        if not self._bars.tasks:
            self._bars.stop()
            self._bars = None

    def print(self, line: str) -> None:
        assert self._bars is not None
        self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _bars() -> Bars:
    from rich.console import Console, RenderableType
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars
    from rich.text import Text

    class BarsUnderBoard(Bars):
        def get_renderables(self) -> Iterator[RenderableType]:
            if _terminal.board:
                yield Text(_terminal.board, no_wrap=True)
            yield from super().get_renderables()

    columns: list[Any] = [
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[counts]}"),
        TimeElapsedColumn(),
    ]
    return BarsUnderBoard(
        *columns,
        console=Console(file=sys.stderr),
        transient=True,
        refresh_per_second=2,
        redirect_stdout=False,
        redirect_stderr=False,
    )


def is_terminal() -> bool:
    """Whether notes are shown, and on a terminal that can move its cursor."""
    shows = logging.getLogger("hf_finetune").isEnabledFor(logging.WARNING) and os.environ.get("RANK", "0") == "0"
    return shows and sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") not in (None, "dumb")


_terminal, _log = _Terminal(), _Log()
