"""`hf-finetune plan`: the steps, time and memory of a run, estimated."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from hf_finetune.cli import shipped
from hf_finetune.cli.overrides import parse_run
from hf_finetune.cli.parsing import first_positional
from hf_finetune.cli.run import importing
from hf_finetune.cli.run_job import RunJob, is_run, load_recipe
from hf_finetune.cli.train import TrainJob, parse_train
from hf_finetune.errors import InputError
from hf_finetune.utils.files import check_writable_file

PLAN_HELP = """hf-finetune plan (train DATA | run RECIPE | DATA | RECIPE) [flags]

Estimate rows, lengths, steps, time and memory of `train DATA` or `run RECIPE` with the same flags, from a few real
steps; with method classical rows and time, from a part of the rows; with method auto the rungs that would be climbed,
what each takes, and what is left out. Nothing is written.
`hf-finetune train --help-all` and `hf-finetune run RECIPE --help-all` list the flags; `--json` prints the plan as JSON,
`--plot-schedule FILE.svg` draws the learning rates."""


def plan(arguments: Sequence[str]) -> None:
    with importing():
        job = _parse(arguments)
    if job.find_lr:
        raise InputError("--find-lr: only train and run take it; leave it out")
    plot = None if job.plot_schedule is None else Path(job.plot_schedule)
    if plot is not None:
        if plot.suffix != ".svg":
            raise InputError(f"--plot-schedule {plot}: expected a name that ends in .svg")
        check_writable_file(plot, "--plot-schedule")
    with importing():
        from hf_finetune.search.plan_recipe import plan_recipe
        from hf_finetune.search.recipe_variant import RecipeVariant
    planned = plan_recipe(RecipeVariant(job.recipe), plot=plot)
    print(json.dumps(asdict(planned), indent=2) if job.json else planned)


def _parse(arguments: Sequence[str]) -> RunJob:
    name, rest = first_positional(arguments, PLAN_HELP)
    if name == "run" or name.endswith(".py") or shipped.is_known(name) or is_run(name):
        if name == "run":
            name, rest = first_positional(rest, PLAN_HELP)
        return parse_run(RunJob(load_recipe(name)), rest, "hf-finetune plan")
    return parse_train(TrainJob, rest if name == "train" else arguments, "hf-finetune plan")
