"""Which checkpoints an operation by language models needs, and for what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Task = Literal["masked words", "translation"]


@dataclass(frozen=True)
class Source:
    """A checkpoint for a task."""

    checkpoint: str
    """Hub id or folder."""
    revision: str | None
    task: Task
