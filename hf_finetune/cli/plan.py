"""`hf-finetune plan`: the steps, time and memory of a run, estimated."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hf_finetune.cli import shipped
from hf_finetune.cli.overrides import parse_run
from hf_finetune.cli.parsing import first_positional
from hf_finetune.cli.run import importing
from hf_finetune.cli.run_job import RunJob, is_run, load_recipe
from hf_finetune.cli.train import TrainJob, parse_train
from hf_finetune.errors import InputError
from hf_finetune.utils.console import Progress
from hf_finetune.utils.files import check_writable_file

PLAN_HELP = """hf-finetune plan (train DATA | run RECIPE | DATA | RECIPE) [flags]

Estimate rows, lengths, steps, time and memory of `train DATA` or `run RECIPE` with the same flags, from a few real
steps; with method classical rows and time, from a part of the rows. Nothing is written.
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
    planned = _plan_classical(job, plot) if job.recipe.effective_method == "classical" else _plan(job, plot)
    print(json.dumps(asdict(planned), indent=2) if job.json else planned)


def _plan(job: RunJob, plot: Path | None) -> Any:
    with importing():
        from hf_finetune.pipeline.plan import plan as plan_run
        from hf_finetune.pipeline.run import prepare

    prepared = prepare(job.recipe)
    with Progress("measure a few steps", quiet=True):
        return plan_run(prepared, plot=plot)


def _plan_classical(job: RunJob, plot: Path | None) -> Any:
    if plot is not None:
        raise InputError(f"--plot-schedule {plot}: expected none with method classical, which has no learning rate")
    with importing():
        from hf_finetune.pipeline.classical.plan import plan_classical
        from hf_finetune.pipeline.run import load_classical

    prepared = load_classical(job.recipe)
    with Progress("fit a part of the rows", quiet=True):
        return plan_classical(prepared)


def _parse(arguments: Sequence[str]) -> RunJob:
    name, rest = first_positional(arguments, PLAN_HELP)
    if name == "run" or name.endswith(".py") or shipped.is_known(name) or is_run(name):
        if name == "run":
            name, rest = first_positional(rest, PLAN_HELP)
        return parse_run(RunJob(load_recipe(name)), rest, "hf-finetune plan")
    return parse_train(TrainJob, rest if name == "train" else arguments, "hf-finetune plan")
