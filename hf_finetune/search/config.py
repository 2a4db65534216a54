"""The options of a search."""

from dataclasses import dataclass
from typing import Literal

SearcherName = Literal["sweep", "tpe", "population", "reinforce"]


@dataclass(frozen=True)
class SearchOptions:
    """The searcher and the limits of a search."""

    searcher: SearcherName = "sweep"
    budget_s: float = 600.0
    trials: int | None = None
    """None: as many as there is time for."""
    seeds: int | None = None
    """None: at least three, and more if there is time."""
