"""The checkpoints that generative operations load."""

from dataclasses import dataclass
from typing import Literal

Task = Literal["masked words", "translation"]


@dataclass(frozen=True)
class Source:
    """A checkpoint and the task it is loaded for."""

    checkpoint: str
    """Hub id or folder."""
    revision: str | None
    task: Task
