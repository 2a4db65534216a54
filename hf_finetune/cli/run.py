"""`hf-finetune run` and `quickstart`, and what starts every run from the command line."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hf_finetune.cli.arguments import RunJob, load_recipe
from hf_finetune.cli.parsing import first_positional, parse
from hf_finetune.errors import InputError

RUN_HELP = """hf-finetune run RECIPE [flags]

Run a recipe: a .py file of your own, or the name of a shipped one (`hf-finetune list`).
Every field of it is a flag: `hf-finetune run RECIPE --help` tells them."""


def quickstart(arguments: Sequence[str]) -> None:
    """the main job on an embedded checkpoint and data set, offline, in minutes"""
    run_job(RunJob(load_recipe("quickstart")), arguments, ["hf-finetune", "quickstart"])


def run(arguments: Sequence[str]) -> None:
    """run a recipe, by path or by name"""
    name, rest = first_positional(arguments, RUN_HELP)
    run_job(RunJob(load_recipe(name)), rest, ["hf-finetune", "run", name])


def run_job(job: RunJob, arguments: Sequence[str], started: list[str]) -> None:
    start(parse(RunJob, job, arguments, shlex.join(started)), [*started, *arguments])


def start(job: RunJob, command: list[str]) -> None:
    if job.plot_schedule is not None:
        raise InputError("--plot-schedule: this is for plan; `hf-finetune plan` with the same flags draws it")
    processes = job.launch.num_processes
    if processes is not None and processes < 1:
        raise InputError(f"--num-processes {processes}: expected at least 1")
    if processes is not None and processes > 1 and "WORLD_SIZE" not in os.environ:
        from hf_finetune.cli.launcher import launch

        if job.find_lr:
            raise InputError(f"--num-processes {processes}: --find-lr runs in one; the rate does not depend on them")
        launch(command, processes, mixed_precision=job.recipe.precision.mixed_precision)
        return
    if job.find_lr:
        _find_rate(job)
        return
    with importing():
        from hf_finetune.pipeline.run import run as run_recipe

    result = run_recipe(job.recipe, job.launch, command=public_command(command))
    if result is not None:
        _report(job, result)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """No garbage collection inside: the libraries make a million objects that stay, and looking through them again and
    again took 15% of the time until the first step. Nor does a later collection look through them."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _find_rate(job: RunJob) -> None:
    if job.launch.resume:
        raise InputError("--resume: --find-lr keeps nothing to go on with")
    with importing():
        from hf_finetune.pipeline.learning_rate_finder import describe, find_rate
        from hf_finetune.pipeline.run import prepare

    proposal = find_rate(prepare(job.recipe), job.launch.output)
    print(json.dumps(proposal.to_dict(), indent=2) if job.json else describe(proposal))


def _report(job: RunJob, result: dict[str, Any]) -> None:
    if job.json:
        print(json.dumps(result, indent=2))
        return
    from hf_finetune.evaluation.metrics import SUMMARY_METRICS
    from hf_finetune.evaluation.report import comparison_table

    judged = "test" if "test" in result["metrics"] else "validation"
    rows = [{"name": "this model", **result["metrics"][judged]}]
    rows += [{**b, "name": f"{key} ({b['name']})"} for key, b in result["baselines"].items()]
    print(f"{result['name']} on {result['rows'][judged]} {judged} rows, 95% intervals")
    print(comparison_table(rows, metrics=SUMMARY_METRICS))
    folder = result["folder"]
    for what, name in (
        ("model", "model"),
        ("encoder", "encoder"),
        ("head", "head.safetensors"),
        ("adapter", "adapter"),
        ("card", "README.md"),
        ("predictions", "predictions.parquet"),
    ):
        if (Path(folder) / name).exists():
            print(f"{what:<12} {Path(folder) / name}")


def public_command(command: Sequence[str]) -> str:
    """A command line without what only this machine has: local paths become names; output, push and resume go."""
    kept, skip = [], False
    for argument in command:
        flag = argument.split("=")[0]
        if skip:
            skip = False
        elif flag in ("--output", "--push", "--hub.repo-id"):
            skip = "=" not in argument
        elif flag in ("--resume", "--json"):
            continue
        elif os.sep in argument and Path(argument.partition("=")[2] if flag.startswith("--") else argument).exists():
            value = argument.partition("=")[2] if flag.startswith("--") else argument
            kept.append(argument.replace(value, Path(value).absolute().name))
        else:
            kept.append(argument)
    return shlex.join(kept)
