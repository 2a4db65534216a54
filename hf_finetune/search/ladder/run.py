"""Start a climb, or resume one: its input, its folder, and what a killed climb has left."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from hf_finetune.config.recipe import Launch
from hf_finetune.data.duplicates import dataset_digests, first_occurrences
from hf_finetune.data.labels import labels_of
from hf_finetune.errors import StoppedBySignal
from hf_finetune.pipeline.context import Run, RunInput
from hf_finetune.pipeline.push import push_if_asked
from hf_finetune.pipeline.record import RunRecord
from hf_finetune.pipeline.resume import refuse_changes
from hf_finetune.pipeline.run import load_input, with_network
from hf_finetune.pipeline.run_folder import output_folder, owned_folder, plain_disk_errors
from hf_finetune.search.budget import Budget
from hf_finetune.search.checkpoints.choose import with_best_checkpoint
from hf_finetune.search.ladder import decisions
from hf_finetune.search.ladder.classical_rungs import classical_candidates
from hf_finetune.search.ladder.climb import Climb
from hf_finetune.search.ladder.costs import MethodCosts
from hf_finetune.search.ladder.folds import judging_rows
from hf_finetune.search.ladder.joined_rung import may_join
from hf_finetune.search.ladder.judges import with_judges
from hf_finetune.search.ladder.standing import Standing
from hf_finetune.search.ladder.state import FOLDER, JOINED_RUNG, LadderState
from hf_finetune.search.recipe_variant import RecipeVariant
from hf_finetune.training.precision import fastest_exact_float32, settings_restored
from hf_finetune.utils.console import Progress
from hf_finetune.utils.core_sharing import shared_cores
from hf_finetune.utils.environment import seconds_since_start
from hf_finetune.utils.exit_status import notes_afterwards
from hf_finetune.utils.launched import refuse_processes
from hf_finetune.utils.plain import to_plain

DEFAULT_BUDGET = "5m"


@settings_restored()
@shared_cores()
def climb(base: RecipeVariant, launch: Launch = Launch(), *, command: str | None = None) -> dict[str, Any]:
    """Climb the ladder within the budget of the recipe.

    Args:
        command: the command line, for the card.

    Returns:
        The content of result.json, and its `folder`.

    Raises:
        InputError, TrainingError, GateError, PushError: see `search.run.run`.
        StoppedBySignal: the best rung so far is in the folder; `launch.resume` goes on.
    """
    known = _known(base, launch)
    budget = Budget(base.budget_s(DEFAULT_BUDGET), seconds_since_start())
    base, ranking = with_best_checkpoint(base, known.folder, limit_s=budget.left_s)
    loaded = load(base, budget, known)
    chosen = base.with_choices(RecipeVariant(loaded.context.recipe))
    first, costs = with_network(loaded), MethodCosts()
    with ExitStack() as stack:
        with notes_afterwards():
            folder = stack.enter_context(owned_folder(base.recipe.name, launch.output, resume=launch.resume))
            record = replace(RunRecord.from_run(first, command), recipe=to_plain(base.recipe))
            if folder.is_unfinished and (folder.path / FOLDER / "recipe.json").exists():
                refuse_changes(folder.path / FOLDER, record.to_dict())
            state = replace(LadderState.read(folder.path / FOLDER), compared_rows=known.compared_rows)
        budget = Budget(budget.seconds, budget.used_s + state.used_s)
        chosen, loaded, first = with_judges(chosen, loaded, first, costs, budget, state)
        standing = replace(_standing(chosen, first, folder.path, budget, state), ranking=ranking)
        ladder = Climb.of(chosen, loaded, first, standing, command, costs)
        del first
        with plain_disk_errors(folder.path):
            for place in (each for each in (folder.path, folder.path / FOLDER) if not (each / "recipe.json").exists()):
                record.write(place)
            try:
                result = ladder.run()
            except (KeyboardInterrupt, StoppedBySignal):
                raise StoppedBySignal(standing.stop()) from None
    push_if_asked(folder.path, base.recipe.hub)
    return {**result, "folder": str(folder.path)}


def load(base: RecipeVariant, budget: Budget, state: LadderState) -> RunInput:
    """Load the input of all rungs. With little time what the head reads is compared on few rows, or not at all: the
    checkpoint decides. The state keeps on how many."""

    def compared_rows() -> int:
        if state.compared_rows is None:
            state.compared_rows = decisions.compared_rows(budget.left_s)
        return state.compared_rows

    recipe = base.for_rung("head").with_float32(fastest_exact_float32()).recipe
    # What is computed before a training counts, too.
    torch.set_float32_matmul_precision(recipe.precision.float32_matmul)
    features = base.recipe.data.features
    with Progress("read the data and the checkpoint", quiet=True):
        # What layer the head reads is chosen where there is a head, for it alone.
        return load_input(
            recipe,
            features=features,
            compared_rows=compared_rows,
            layer_rows=0,
        )


def _known(base: RecipeVariant, launch: Launch) -> LadderState:
    """Return what a killed climb has left, or an empty state.

    Raises:
        InputError: several processes, or an output folder that is in use.
    """
    refuse_processes("method auto", launch.num_processes)
    return LadderState.read(output_folder(base.recipe.name, launch.output, resume=launch.resume) / FOLDER)


def _standing(base: RecipeVariant, run: Run, folder: Path, budget: Budget, state: LadderState) -> Standing:
    task = run.data.task
    search = base.recipe.search
    splits = run.data.splits
    classical = ("linear",) if task.has_words else classical_candidates(splits)
    joined = (JOINED_RUNG,) if may_join(base, task, splits) else ()
    ensemble = ("ensemble", "student") if search.ensemble else ()
    methods = decisions.methods_within(search.preset, budget.left_s)
    # More where a resumed climb has a larger budget. A trial is instead of those that come after it.
    state.tested = list(dict.fromkeys([*state.tested, *classical, "head", *joined, *methods, *ensemble]))
    rows, evaluate = judging_rows(run), run.recipe.evaluate
    return Standing(
        base.recipe.name,
        folder,
        budget,
        state,
        task,
        labels_of(rows),
        evaluate.resamples,
        None if evaluate.group is not None else cache(lambda: first_occurrences(dataset_digests(rows))),
    )
