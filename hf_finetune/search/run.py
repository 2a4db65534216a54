"""Run a recipe: once, with several seeds, or as the ladder of method auto."""

from typing import Any

from hf_finetune.compression.named_steps import named_chains
from hf_finetune.config.recipe import Launch, Recipe
from hf_finetune.errors import InputError
from hf_finetune.inference.compressing.run import FOLDER as COMPRESSED
from hf_finetune.inference.compressing.run import compress
from hf_finetune.inference.compressing.state import refuse_finished
from hf_finetune.pipeline import run as pipeline
from hf_finetune.pipeline.context import setup_context
from hf_finetune.pipeline.resume import resume_finished
from hf_finetune.pipeline.run_folder import finished_folder
from hf_finetune.search.ladder.run import climb
from hf_finetune.search.recipe_variant import RecipeVariant
from hf_finetune.search.seeds import run_seeds
from hf_finetune.tasks.trained_pipeline import load_finished


def run(recipe: Recipe, launch: Launch = Launch(), *, command: str | None = None) -> dict[str, Any] | None:
    """Train, evaluate, verify, document and, if asked, push.

    Args:
        recipe: what to compute.
        launch: where to write, and whether to resume.
        command: the command line that reproduces the run, for the card.

    Returns:
        The content of result.json, and its `folder`; with `recipe.compress` also `compression`, what each candidate
        cost and gave. None in all processes but the main one.

    Raises:
        InputError: bad data, checkpoint, fields or output folder, or no right to push. Nothing was written.
        TrainingError: the loss or the weights are not finite, or the disk is full.
        StoppedBySignal: after a checkpoint, or a compressed candidate; `launch.resume` continues from there.
        GateError: a saved artifact does not reproduce the model; or no compressed candidate is within the limits, the
            run is finished.
        PushError: the Hub refused the finished run, or kept failing.
    """
    variant = RecipeVariant(recipe)
    _refuse(variant)
    if recipe.compress is None:
        return _trained(variant, launch, command)
    result = _resumed(variant, launch, command) if launch.resume else _trained(variant, launch, command)
    if result is None:
        return None
    compressed = compress(load_finished(result["folder"]), options=recipe.compress, resume=launch.resume)
    return {**result, "compression": dict(compressed.document)}


def _resumed(variant: RecipeVariant, launch: Launch, command: str | None) -> dict[str, Any] | None:
    """Return the result of a run whose compression is not finished, and train where the run itself is not."""
    single = variant.for_one_run.recipe
    setup_context(single)  # Else the processes have not met, and cannot tell each other whether it is finished.
    folder = finished_folder(single.name, launch.output)
    if folder is None:
        return _trained(variant, launch, command)
    refuse_finished(folder / COMPRESSED)
    return resume_finished(pipeline.prepare(single), folder)


def _trained(variant: RecipeVariant, launch: Launch, command: str | None) -> dict[str, Any] | None:
    if variant.climbs:
        return climb(variant, launch, command=command)
    if len(variant.seeds) > 1:
        return run_seeds(variant.for_one_run, variant.seeds, launch, command=command)
    return pipeline.run(variant.for_one_run.recipe, launch, command=command)


def _refuse(variant: RecipeVariant) -> None:
    """Refuse fields of the search and of the compression that do not go with the method, or with each other.

    Raises:
        InputError: naming the field.
    """
    recipe = variant.recipe
    if recipe.compress is not None and recipe.compress.steps is not None:
        named_chains(recipe.compress.steps)
    if variant.climbs:
        _refuse_fields_of_one_run(recipe)
    else:
        _refuse_fields_of_auto(recipe)


def _refuse_fields_of_one_run(recipe: Recipe) -> None:
    if recipe.compress is not None:
        raise InputError(
            "compress: expected null with method auto; compress what it has chosen afterwards, "
            "`hf-finetune compress DIR`"
        )
    if recipe.search.seeds is not None:
        raise InputError(
            f"search.seeds: expected none with method auto, got {recipe.search.seeds}; run what it has chosen with "
            "them afterwards, `hf-finetune run DIR --seeds N`"
        )


def _refuse_fields_of_auto(recipe: Recipe) -> None:
    search, method = recipe.search, recipe.method
    if search.candidates:
        raise InputError(
            f"search.candidates: expected none with method {method}, got {', '.join(search.candidates)}: method auto "
            "compares them, and so does `hf-finetune rank`"
        )
    if search.ensemble:
        raise InputError(f"search.ensemble: expected false with method {method}, which trains one model")
    if search.budget is not None:
        raise InputError(
            f"search.budget: expected null with method {method}, got {search.budget!r}: only method auto has one; "
            "--max-time limits a training"
        )
    if search.seeds is not None and search.seeds > 1 and recipe.effective_method == "classical":
        raise InputError(
            f"search.seeds: expected null with method classical, got {search.seeds}; run each --seed alone"
        )
