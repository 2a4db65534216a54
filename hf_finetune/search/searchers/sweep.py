"""Grid search with successive halving."""

from __future__ import annotations

from hf_finetune.search.searchers.base import Halving, Searcher, SearchSpace, halved, most_arms


class Sweep(Halving, Searcher):
    """The candidates of the space's grid, the better half of them on more steps, and so on."""

    def __init__(self, space: SearchSpace, *, trials: int, seed: int = 0) -> None:
        super().__init__(space.grid()[: most_arms(trials)])

    @staticmethod
    def counts(trials: int, space: SearchSpace) -> tuple[int, ...]:
        """See `Searcher`."""
        return halved(min(most_arms(trials), len(space.grid())))
