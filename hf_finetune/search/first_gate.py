"""Which plain libraries the first gate of a run needs, if it comes soon."""

from pathlib import Path

from hf_finetune.hub.plain_scripts import CLASSICAL, NETWORK
from hf_finetune.search.recipe_variant import RecipeVariant

SHORT_S = 60.0
"""With a shorter budget a climb writes its classical model at the end, unless a network is better, and it mostly is."""


def first_gate(variant: RecipeVariant) -> Path | None:
    """Return the script of the first gate. None: it comes after a training, during which it would hold memory."""
    if variant.recipe.method == "classical":
        return CLASSICAL
    if not variant.climbs:
        return None
    budget = variant.recipe.search.budget
    is_short = budget is not None and variant.budget_s(budget) < SHORT_S
    return NETWORK if is_short else CLASSICAL
