"""`hf-finetune search augmentation`: search a policy for the user's own data."""

import dataclasses
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from hf_finetune.cli.parsing import first_positional
from hf_finetune.cli.run import importing
from hf_finetune.cli.train import TrainJob, parse_train
from hf_finetune.distillation.config import Distill
from hf_finetune.errors import InputError
from hf_finetune.search.config import SearcherName
from hf_finetune.utils.durations import parse_duration
from hf_finetune.utils.experimental import mark_in

logger = logging.getLogger("hf_finetune.run")
BUDGET = "10m"
"""Trials take 0.4 of it, or more if the final runs need less. The final runs are pairs with the policy and without it,
of as many steps of the recipe as fit into the rest: at least three pairs, and up to ten if there is time."""
SEARCH_HELP = """hf-finetune search augmentation DATA [flags]

Search for what improves a model on your own data: so far, an augmentation policy.
`hf-finetune search augmentation --help` lists its flags and those of train, of which it refuses a few by name."""


@dataclass(frozen=True)
class SearchJob(TrainJob):
    """Search an augmentation policy for your own data, and compare it with no augmentation. Experimental: every search
    so far ended undecided, and none of the policies was better (docs/benchmarks.md#augmentation)."""

    has_common_help: ClassVar[bool] = False

    searcher: SearcherName = "sweep"
    """sweep: one or two numbers, as in RandAugment and TrivialAugment, which overfits least in few trials. tpe:
    Optuna's tree-structured Parzen estimator (the extra `search`). population: several trainings exchange policies, as
    in PBA, and end in a schedule of them, `Phases`. reinforce: a recurrent controller trained by REINFORCE, as in
    AutoAugment."""
    trials: int | None = None
    """Number of trials, whatever the budget. sweep and population round it down to whole rungs. None: as many as there
    is time for."""
    rows: int | None = None
    """Most training rows: as --max-train-rows."""


def search(arguments: Sequence[str]) -> None:
    subject, rest = first_positional(arguments, SEARCH_HELP)
    if subject != "augmentation":
        raise InputError(f"hf-finetune search {subject}: expected `hf-finetune search augmentation DATA`")
    job, seconds = parse_search(rest, "hf-finetune search augmentation")
    with importing():
        from hf_finetune.search.augmentation import policy_search, report
        from hf_finetune.search.config import SearchOptions
        from hf_finetune.search.recipe_variant import RecipeVariant
        from hf_finetune.utils.environment import seconds_since_start

    options = SearchOptions(job.searcher, seconds, job.trials, job.recipe.search.seeds)
    result = policy_search.search_policy(
        RecipeVariant(job.recipe),
        options,
        output=job.launch.output,
        resume=job.launch.resume,
        used_s=seconds_since_start(),
    )
    # Not before: an error of the input has to be the first line.
    if mark := mark_in(SearchJob.__doc__):
        logger.info(mark.note("search augmentation"))
    print(json.dumps(result, indent=2) if job.json else report.describe(result))


def parse_search(arguments: Sequence[str], prog: str) -> tuple[SearchJob, float]:
    """Parse the arguments of `search augmentation` into the job and its budget in seconds.

    Raises:
        InputError: see `parse_train`; or a flag of train that a search does not take.
    """
    job = parse_train(SearchJob, arguments, prog)
    for flag, is_set in (
        ("--find-lr", job.find_lr),
        ("--plot-schedule", job.plot_schedule is not None),
        ("--num-processes", job.launch.num_processes not in (None, 1)),
        ("--push", job.recipe.hub.repo_id is not None),
        ("--teacher", isinstance(job.recipe.objective, Distill)),
        ("--model.from-config", job.recipe.model.from_config is not None),
        ("--pretrain.objective", job.recipe.pretrain.objective is not None),
    ):
        if is_set:
            raise InputError(f"{flag}: search does not take it; leave it out")
    if job.rows is not None:
        data = dataclasses.replace(job.recipe.data, max_train_rows=job.rows)
        job = dataclasses.replace(job, recipe=dataclasses.replace(job.recipe, data=data))
    return job, parse_duration(job.recipe.search.budget or BUDGET)
