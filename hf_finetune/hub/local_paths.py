"""A local path says where someone's files lie and helps nobody else: only its last name leaves this machine."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

_START = r"(?:~|\.{1,2}|[A-Za-z]:)?[/\\]"
_PATH = re.compile(_START + r".*|\.{1,2}", re.DOTALL)
_INSIDE = re.compile(
    rf"(?P<quote>['\"])(?P<quoted>{_START}[^'\"\n]+)(?P=quote)"
    # Neither a URL nor a slash between two words.
    rf"|(?<![\w.~/\\:-])(?P<bare>{_START}[^\s'\"`,;()\[\]{{}}<>|]+)"
)
# Fields of a recipe whose value is a path when it is not an id on the Hub.
_PATH_FIELDS = frozenset(
    {"path", "validation", "test", "unlabelled", "unlabeled", "checkpoint", "there", "back", "teacher", "output"}
)
# Class names are the user's own words, whatever they look like.
_KEPT_FIELDS = frozenset({"labels"})


def is_local(text: str) -> bool:
    """Whether `text` can only be a path: absolute, or relative with a leading dot. Nothing is looked up on disk."""
    return _PATH.fullmatch(text) is not None


def last_name(path: str) -> str:
    """The last part of a path, of whatever system."""
    name = re.split(r"[/\\]", path.rstrip("/\\"))[-1]
    return name if name.strip(".~") else "local"


def shorten(text: str) -> str:
    """`text` with every local path in it, quoted or bare, replaced by its last name."""
    if is_local(text):
        return last_name(text)

    def name(match: re.Match[str]) -> str:
        quote = match["quote"] or ""
        return f"{quote}{last_name(match['quoted'] or match['bare'])}{quote}"

    return _INSIDE.sub(name, text)


def without_local_paths(value: Any, field: str = "") -> Any:
    """Nested dicts and lists, as JSON has them, with local paths shortened.

    Text is judged by its form; only what the fields of a recipe call a path is looked up on disk, because `runs/model`
    could be an id on the Hub as well.
    """
    if isinstance(value, dict):
        return {key: item if key in _KEPT_FIELDS else without_local_paths(item, key) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_local_paths(item, field) for item in value]
    if not isinstance(value, str):
        return value
    if field in _PATH_FIELDS and os.sep in value and Path(value).exists():
        return last_name(value)
    return shorten(value)
