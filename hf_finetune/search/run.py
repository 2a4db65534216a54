"""Run a recipe: once, with several seeds, or as the ladder of method auto."""

from pathlib import Path
from typing import Any

from hf_finetune.config.recipe import Launch, Recipe
from hf_finetune.errors import InputError
from hf_finetune.inference.compressing.run import compress
from hf_finetune.pipeline import run as pipeline
from hf_finetune.pipeline.record import RunRecord
from hf_finetune.pipeline.resume import resume_record
from hf_finetune.pipeline.run_folder import is_finished, named_folder
from hf_finetune.search.ladder.climb import climb
from hf_finetune.search.recipe_variant import RecipeVariant
from hf_finetune.search.seeds import run_seeds
from hf_finetune.tasks.trained_pipeline import load_finished
from hf_finetune.utils.exit_status import is_main_process
from hf_finetune.utils.files import read_json


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
    if recipe.compress is None:
        return _trained(variant, launch, command)
    folder = named_folder(recipe.name, launch.output, resume=launch.resume)
    if launch.resume and folder.is_dir() and is_finished(folder):
        result = _finished(variant, folder)
    else:
        result = _trained(variant, launch, command)
    if result is None:
        return None
    compressed = compress(load_finished(result["folder"]), options=recipe.compress, resume=launch.resume)
    return {**result, "compression": dict(compressed.document)}


def _finished(variant: RecipeVariant, folder: Path) -> dict[str, Any] | None:
    """Return the result of a finished run, whose compression goes on. None in all processes but the main one.

    Raises:
        InputError: its recipe was another one.
    """
    prepared = pipeline.prepare(variant.for_one_run.recipe)
    resume_record(RunRecord.from_run(prepared), prepared, folder)
    if not is_main_process():
        return None
    return {**read_json(folder / "result.json", "start the run anew in another --output"), "folder": str(folder)}


def _trained(variant: RecipeVariant, launch: Launch, command: str | None) -> dict[str, Any] | None:
    recipe = variant.recipe
    if variant.climbs:
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
        return climb(variant, launch, command=command)
    _refuse_fields_of_auto(recipe)
    if len(variant.seeds) > 1:
        if recipe.effective_method == "classical":
            raise InputError(
                f"search.seeds: expected null with method classical, got {recipe.search.seeds}; run each --seed alone"
            )
        return run_seeds(variant.for_one_run, variant.seeds, launch, command=command)
    return pipeline.run(variant.for_one_run.recipe, launch, command=command)


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
