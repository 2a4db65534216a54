"""What the user asks of a search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SearcherName = Literal["sweep", "tpe", "population", "reinforce"]


@dataclass(frozen=True)
class SearchOptions:
    """How to search, and for how long."""

    searcher: SearcherName = "sweep"
    budget_s: float = 600.0
    trials: int | None = None
    """None: as many as there is time for."""
    seeds: int | None = None
    """None: at least three, and more where time is left."""
