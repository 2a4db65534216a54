"""`hf-finetune plan`: what a run would do and cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from hf_finetune.cli import shipped
from hf_finetune.cli.arguments import RunJob, load_recipe
from hf_finetune.cli.parsing import first_positional, parse
from hf_finetune.cli.run import importing
from hf_finetune.cli.train import train_job
from hf_finetune.errors import InputError

PLAN_HELP = """hf-finetune plan (train DATA | run RECIPE | DATA | RECIPE) [flags]

What `train DATA` or `run RECIPE` with the same flags would do: rows, lengths, steps, time and memory, estimated from a
few real steps. Leaves nothing behind.
`hf-finetune train --help` and `hf-finetune run RECIPE --help` list the flags; `--json` prints the plan as JSON,
`--plot-schedule FILE.svg` draws the learning rates."""


def plan(arguments: Sequence[str]) -> None:
    """what train DATA or run RECIPE would do and cost; keeps nothing"""
    name, rest = first_positional(arguments, PLAN_HELP)
    if name == "run" or name.endswith(".py") or shipped.is_known(name):
        if name == "run":
            name, rest = first_positional(rest, PLAN_HELP)
        job = parse(RunJob, RunJob(load_recipe(name)), rest, "hf-finetune plan")
    else:
        job = train_job(rest if name == "train" else arguments, "hf-finetune plan")
    if job.find_lr:
        raise InputError("--find-lr: this is for train and run; leave it out")
    if job.plot_schedule is not None and not job.plot_schedule.endswith(".svg"):
        raise InputError(f"--plot-schedule {job.plot_schedule}: expected a name that ends in .svg")
    with importing():
        from hf_finetune.pipeline.plan import describe
        from hf_finetune.pipeline.plan import plan as make_plan
        from hf_finetune.pipeline.run import prepare

    made = make_plan(prepare(job.recipe), plot=None if job.plot_schedule is None else Path(job.plot_schedule))
    print(json.dumps(made, indent=2) if job.json else describe(made))
