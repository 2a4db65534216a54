"""Parts of messages: names in a row, what a misspelt name may have meant, and notes that are logged and collected."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Sequence

logger = logging.getLogger("hf_finetune")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`, did you mean 'x'?` if something like it is known."""
    by_lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f", did you mean {by_lower[close[0]]!r}?" if close else ""


def listed(names: Sequence[str], most: int = 5) -> str:
    """Names in a row, the many cut short, on one line whatever is in them."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(" ".join(name.splitlines()) for name in names[:most]) + more


def quoted(names: Iterable[str]) -> str:
    """Names in quotation marks, in a row; the many cut short."""
    return listed([repr(name) for name in names], most=12)


class Notes(list[str]):
    """Notes for the user, each logged as it is added."""

    def add(self, note: str) -> None:
        """Log a note, and collect it."""
        logger.info(note)
        self.append(note)


def one_line(error: Exception, most: int = 150) -> str:
    """What a library says of an error, on one line."""
    return " ".join(str(error).split())[:most] or type(error).__name__
