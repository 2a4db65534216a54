"""The rung of a second full fine-tuning, by another seed, whose weights are averaged with those of the first."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from hf_finetune.search.ladder import decisions
from hf_finetune.search.ladder.costs import RungCost, Scoring
from hf_finetune.search.ladder.standing import Standing
from hf_finetune.search.ladder.state import SOUP_RUNG, LadderState, RungRecord
from hf_finetune.search.recipe_variant import RecipeVariant, SingleMethod

logger = logging.getLogger("hf_finetune.run")
SEED_STEP = 1000
"""To the seed of the second run: no other climb of `--seeds` has it."""


@dataclass(frozen=True)
class Second:
    """A second full fine-tuning, and how long it trains."""

    plan: decisions.RungPlan
    base: RecipeVariant


def plan_soup(
    standing: Standing,
    base: RecipeVariant,
    cost: Callable[[SingleMethod], RungCost],
    scoring: Callable[[], Scoring],
    *,
    starts_alike: bool,
) -> Second | None:
    """Return the second run, if full fine-tuning is the best rung and there is time for another one; else record why
    there is none.

    Args:
        cost: see `decisions.weigh`.
        scoring: what comparing both weights costs.
        starts_alike: whether both runs start from the same head.
    """
    state, full = standing.state, standing.state.find("full")
    if full is None or full.folder is None:
        return None
    if (reason := _why_not(state)) is not None:
        plan = decisions.RungPlan(reason)
    else:
        # The trained weights and the mean predict the validation rows.
        known = scoring()
        compared_s = 2 * known.rows["validation"] * known.row_s
        left_s, epochs = standing.budget.left_s - compared_s, full.epochs or base.recipe.train.epochs
        plan = decisions.weigh_soup(cost, left_s=left_s, epochs=epochs)
    if plan.epochs is not None and not starts_alike:
        plan = decisions.RungPlan("left: the mean of two runs from unlike random heads is of no use")
    if plan.epochs is not None:
        # Only now: the others need not share their level with what is never judged.
        state.tested = list(dict.fromkeys([*state.tested, SOUP_RUNG]))
        logger.info("%s: %s", SOUP_RUNG, plan.reason)
        seed = base.recipe.train.seed + SEED_STEP
        return Second(plan, base.averaged_with(str(state.folder / full.folder), seed=seed))
    standing.record(RungRecord(SOUP_RUNG, plan.reason))
    return None


def _why_not(state: LadderState) -> str | None:
    """Return why no second run would help, whatever the time. None: it may."""
    if state.folds is not None:
        return "left: out of fold, networks keep their last weights"
    if state.best is None or state.best.name != "full":
        return "left: full fine-tuning is not the best model so far"
    return None
