"""Choose the checkpoint of a climb among candidates."""

import logging
from pathlib import Path

from hf_finetune.config.rules import check
from hf_finetune.errors import InputError
from hf_finetune.search.checkpoints.ranking import Ranking, rank
from hf_finetune.search.recipe_variant import RecipeVariant

logger = logging.getLogger("hf_finetune.run")
PART_OF_BUDGET = 0.2
"""Most of the time that is left, which the probes may take."""


def with_best_checkpoint(base: RecipeVariant, rungs: Path, *, limit_s: float) -> tuple[RecipeVariant, Ranking | None]:
    """Return the recipe on the best of its candidates, and their ranking; that of a resumed climb is on the disk.

    Args:
        rungs: DIR/rungs.
        limit_s: seconds that are left for the climb.

    Raises:
        InputError: see `rank`; or the weights would not come from a checkpoint.
    """
    recipe = base.recipe
    if not recipe.search.candidates:
        return base, None
    if recipe.model.from_config is not None:
        raise InputError("search.candidates: expected none with model.from_config, whose weights are random")
    ranking = Ranking.read(rungs)
    if ranking is None:
        check(base.for_rung("head").recipe)
        limit_s *= PART_OF_BUDGET
        ranking = rank(
            recipe.search.candidates,
            recipe.data,
            cache_gb=recipe.batching.cache_gb,
            limit_s=limit_s,
            group=recipe.evaluate.group,
        )
        logger.info("%s", ranking)
    return base.with_checkpoint(ranking.chosen), ranking
