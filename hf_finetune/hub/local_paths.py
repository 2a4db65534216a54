"""Reduce local paths to their last part, in everything that leaves this machine."""

import os
import re
from pathlib import Path
from typing import Any

_START = r"(?:~|\.{1,2}|[A-Za-z]:)?[/\\]"
_PATH = re.compile(_START + r".*|\.{1,2}", re.DOTALL)
_PATH_IN_TEXT = re.compile(
    rf"(?P<quote>['\"])(?P<quoted>{_START}[^'\"\n]+)(?P=quote)"
    # Not a URL, nor a slash between two words.
    rf"|(?<![\w.~/\\:-])(?P<bare>{_START}[^\s'\"`,;()\[\]{{}}<>|]+)"
)
# Fields of a recipe that hold a path or a Hub id.
_PATH_FIELDS = frozenset(
    {
        *("path", "validation", "test", "unlabelled", "unlabeled", "checkpoint", "candidates"),
        *("there", "back", "teacher", "output", "runs"),
    }
)
# Class names may look like paths.
_UNCHANGED_FIELDS = frozenset({"labels"})


def is_local(text: str) -> bool:
    """Return whether `text` has the form of an absolute path, or of a relative one with a leading dot."""
    return _PATH.fullmatch(text) is not None


def last_name(path: str) -> str:
    """Return the last part of a POSIX or Windows path."""
    name = re.split(r"[/\\]", path.rstrip("/\\"))[-1]
    return name if name.strip(".~") else "local"


def shorten(text: str) -> str:
    """Return `text` with every local path in it, quoted or bare, reduced to its last part."""
    if is_local(text):
        return last_name(text)

    def name(match: re.Match[str]) -> str:
        quote = match["quote"] or ""
        return f"{quote}{last_name(match['quoted'] or match['bare'])}{quote}"

    return _PATH_IN_TEXT.sub(name, text)


def without_local_paths(value: Any, field: str = "") -> Any:
    """Return nested dicts and lists, as JSON has them, with local paths shortened.

    `runs/model` has the form of a Hub id, so the path fields of a recipe are also looked up on disk.
    """
    if isinstance(value, dict):
        return {
            key: item if key in _UNCHANGED_FIELDS else without_local_paths(item, key) for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_local_paths(item, field) for item in value]
    if not isinstance(value, str):
        return value
    if field in _PATH_FIELDS and os.sep in value and Path(value).exists():
        return last_name(value)
    return shorten(value)
