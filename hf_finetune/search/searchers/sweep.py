"""Grid search with successive halving."""

from __future__ import annotations

from hf_finetune.search.searchers.base import Halving, Searcher, SearchSpace, halving_counts, max_candidates


class Sweep(Halving, Searcher):
    """Successive halving of the space's grid."""

    def __init__(self, space: SearchSpace, *, trials: int, seed: int = 0) -> None:
        super().__init__(space.grid()[: max_candidates(trials)])

    @staticmethod
    def counts(trials: int, space: SearchSpace) -> tuple[int, ...]:
        return halving_counts(min(max_candidates(trials), len(space.grid())))
