"""Plan what a recipe would do: a single run, method classical, or the climb of method auto."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hf_finetune.errors import InputError
from hf_finetune.inference.session import python_session
from hf_finetune.pipeline.classical.plan import ClassicalPlan, plan_classical
from hf_finetune.pipeline.plan import Plan
from hf_finetune.pipeline.plan import plan as plan_run
from hf_finetune.pipeline.run import load_classical, prepare
from hf_finetune.search.fine_tuning import recipe_of
from hf_finetune.search.ladder.plan import LadderPlan, plan_climb
from hf_finetune.search.recipe_variant import RecipeVariant
from hf_finetune.utils.console import Progress
from hf_finetune.utils.environment import started_now


def plan_recipe(variant: RecipeVariant, *, plot: Path | None = None) -> Plan | ClassicalPlan | LadderPlan:
    """Estimate the steps, time and memory of a recipe from a few real steps. Nothing is saved.

    Args:
        plot: file for a chart (SVG) of the learning rates of a single run.

    Raises:
        InputError: whatever would stop the run; or the run has no learning rate to plot.
    """
    recipe = variant.recipe
    method = "auto" if variant.climbs else recipe.effective_method
    if method in ("auto", "classical") and plot is not None:
        many = "which plans several trainings" if method == "auto" else "which has no learning rate"
        raise InputError(f"--plot-schedule {plot}: expected none with method {method}, {many}")
    if variant.climbs:
        return plan_climb(variant)
    if method == "classical":
        loaded = load_classical(recipe)
        with Progress("fit a part of the rows", quiet=True):
            return plan_classical(loaded)
    prepared = prepare(recipe)
    with Progress("measure a few steps", quiet=True):
        return plan_run(prepared, plot=plot)


def plan(data: Any, *, validation: Any = None, test: Any = None, **fields: Any) -> Plan | ClassicalPlan | LadderPlan:
    """Estimate what `train` would do with the same arguments, as `hf-finetune plan` does. Nothing is written.

    Args:
        data, validation, test: as for `train`.
        fields: fields of a `Recipe`, as for `train`: `model=`, `method="auto"`, `budget="5m"`.

    Returns:
        The plan, which prints as a table: rows, `estimate` with seconds and memory, and with method auto `rungs`.

    Examples:
        >>> planned = plan(frame, text="review", label="stars", method="auto", budget="5m")
        >>> print(planned)

    Raises:
        InputError: bad data, checkpoint or keyword.
    """
    splits: Mapping[str, Any] = {"validation": validation, "test": test}
    with started_now(), python_session(), ExitStack() as stack:
        return plan_recipe(RecipeVariant(recipe_of(stack, data, dict(fields), splits)))
