"""The command line: `hf-finetune COMMAND`, and `main(recipe)` for a recipe script.

Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hf_finetune.cli import shipped
from hf_finetune.cli.doctor import doctor
from hf_finetune.cli.jobs import (
    CardJob,
    CopyJob,
    EvaluateJob,
    PredictJob,
    PushJob,
    RunJob,
    first_positional,
    parse,
    search_job,
    train_job,
    usage_or_help,
    views_of,
)
from hf_finetune.config.recipe import Model, Recipe, TextData
from hf_finetune.errors import InputError
from hf_finetune.utils.exit_status import exit_status
from hf_finetune.utils.files import write_text
from hf_finetune.utils.plain import merge

# Metrics of the table at the end of a run; result.json has them all.
SHOWN = ("accuracy", "macro_f1", "log_loss")

RUN_HELP = """hf-finetune run RECIPE [flags]

Run a recipe: a .py file of your own, or the name of a shipped one (`hf-finetune list`).
Every field of it is a flag: `hf-finetune run RECIPE --help` tells them."""
PLAN_HELP = """hf-finetune plan (train DATA | run RECIPE | DATA | RECIPE) [flags]

What `train DATA` or `run RECIPE` with the same flags would do: rows, lengths, steps, time and memory, after a few steps that
tell how long one takes. Keeps nothing.
`hf-finetune train --help` and `hf-finetune run RECIPE --help` tell the flags; `--json` prints the plan as JSON,
`--plot-schedule FILE.svg` draws the learning rates."""
SEARCH_HELP = """hf-finetune search augmentation DATA [flags]

Search what the user's own data gain from: so far a policy of augmentation.
`hf-finetune search augmentation --help` tells the flags: those of train, but for a few that are refused by name, and its
own."""
LIST_HELP = """hf-finetune list

The shipped recipes, each with its first line."""


# Commands


def quickstart(arguments: Sequence[str]) -> None:
    """the main job on an embedded checkpoint and data set, offline, in minutes"""
    _run_job(shipped.load_recipe("quickstart"), arguments, ["hf-finetune", "quickstart"])


def train(arguments: Sequence[str]) -> None:
    """fine-tune a classifier on your own data"""
    with _importing():
        job, started = train_job(arguments, "hf-finetune train")
    _start(job, [*started, *arguments])


def run(arguments: Sequence[str]) -> None:
    """run a recipe, by path or by name"""
    name, rest = first_positional(arguments, RUN_HELP)
    _run_job(shipped.load_recipe(name), rest, ["hf-finetune", "run", name])


def plan(arguments: Sequence[str]) -> None:
    """what train DATA or run RECIPE would do and cost; keeps nothing"""
    name, rest = first_positional(arguments, PLAN_HELP)
    if name == "run" or name.endswith(".py") or shipped.is_known(name):
        if name == "run":
            name, rest = first_positional(rest, PLAN_HELP)
        job = parse(RunJob, RunJob(shipped.load_recipe(name)), rest, "hf-finetune plan")
    else:
        job, _ = train_job(rest if name == "train" else arguments, "hf-finetune plan")
    if job.find_lr:
        raise InputError("--find-lr: this is for train and run; leave it out")
    if job.plot_schedule is not None and not job.plot_schedule.endswith(".svg"):
        raise InputError(f"--plot-schedule {job.plot_schedule}: expected a name that ends in .svg")
    with _importing():
        from hf_finetune.pipeline.plan import describe
        from hf_finetune.pipeline.plan import plan as make_plan

    made = make_plan(job.recipe, plot=None if job.plot_schedule is None else Path(job.plot_schedule))
    print(json.dumps(made, indent=2) if job.json else describe(made))


def search(arguments: Sequence[str]) -> None:
    """search a policy of augmentation for your own data"""
    what, rest = first_positional(arguments, SEARCH_HELP)
    if what != "augmentation":
        raise InputError(f"hf-finetune search {what}: expected `hf-finetune search augmentation DATA`")
    job, seconds = search_job(rest, "hf-finetune search augmentation")
    with _importing():
        from hf_finetune.search.augmentation import policy_search, report
        from hf_finetune.search.config import SearchOptions
        from hf_finetune.search.searched_recipe import SearchedRecipe
        from hf_finetune.utils.environment import seconds_since_start

    options = SearchOptions(job.searcher, seconds, job.trials, job.seeds)
    found = policy_search.search_policy(
        SearchedRecipe(job.recipe),
        options,
        output=job.launch.output,
        resume=job.launch.resume,
        used_s=seconds_since_start(),
    )
    print(json.dumps(found, indent=2) if job.json else report.describe(found))


def predict(arguments: Sequence[str]) -> None:
    """label rows with a finished model"""
    job = parse(PredictJob, None, arguments, "hf-finetune predict")
    views = views_of(job)
    with _importing():
        from hf_finetune.inference import prediction
        from hf_finetune.training.classifier import load_trained
        from hf_finetune.utils import tables

    tables.check_output(Path(job.output), job.data.path)
    classifier = load_trained(job.model, trust_remote_code=job.trust_remote_code)
    logging.getLogger("hf_finetune").setLevel(logging.INFO)  # nobody says again what the loader of the rows says
    result = prediction.predict(
        classifier,
        job.data,
        Path(job.output),
        batch_size=job.batch_size,
        precision=job.precision,
        views=views,
        digests=job.digests,
    )
    print(json.dumps(result, indent=2) if job.json else f"{result['rows']} rows -> {job.output}")


def evaluate(arguments: Sequence[str]) -> None:
    """score a finished model on labelled rows"""
    job = parse(EvaluateJob, None, arguments, "hf-finetune evaluate")
    views = views_of(job)
    with _importing():
        from hf_finetune.data.provenance import trained_on
        from hf_finetune.evaluation.report import comparison_table
        from hf_finetune.evaluation.test_time import describe
        from hf_finetune.inference import evaluation
        from hf_finetune.training.classifier import load_trained

    classifier = load_trained(job.model, trust_remote_code=job.trust_remote_code)
    logging.getLogger("hf_finetune").setLevel(logging.INFO)  # nobody says again what the loader of the rows says
    result = evaluation.evaluate(
        classifier,
        job.data,
        batch_size=job.batch_size,
        precision=job.precision,
        views=views,
        trained_on=trained_on(job.model),
    )
    name = Path(job.model).name
    if job.json:
        print(json.dumps(result, indent=2))
    elif views is None:
        print(comparison_table([{"name": name, **result["metrics"]}]))
    else:
        seen = {"name": f"{name}, {views.number} views", **result["metrics"]}
        print(comparison_table([seen, {"name": name, **result["views"]["without"]}]))
        print(describe(result["views"]))


def list_recipes(arguments: Sequence[str]) -> None:
    """the shipped recipes"""
    if arguments:
        raise usage_or_help(arguments, LIST_HELP, f"hf-finetune list: takes no arguments, got {arguments[0]!r}")
    described = shipped.described()
    width = max(map(len, described))
    for name, line in described.items():
        print(f"{name:<{width}}  {line}")


def copy_recipe(arguments: Sequence[str]) -> None:
    """copy a shipped recipe to own it"""
    job = parse(CopyJob, None, arguments, "hf-finetune cp")
    print(shipped.copy(job.name, Path(job.dest)))


def card(arguments: Sequence[str]) -> None:
    """render the model card of a run again"""
    job = parse(CardJob, None, arguments, "hf-finetune card")
    from hf_finetune.hub.card import render_card

    recipe, result = read_run(Path(job.run))
    text = render_card(recipe, result)
    write_text(Path(job.run) / "README.md", text)
    print(text, end="")


def push(arguments: Sequence[str]) -> None:
    """publish a finished run on the Hub, pull it back and compare"""
    job = parse(PushJob, None, arguments, "hf-finetune push")
    from hf_finetune.pipeline.publish import publish

    pushed = publish(
        Path(job.run),
        job.repo,
        private=job.private,
        revision=job.revision,
        create_pr=job.create_pr,
        include_predictions=job.include_predictions,
    )
    print(pushed.url)


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "quickstart": quickstart,
    "train": train,
    "run": run,
    "list": list_recipes,
    "cp": copy_recipe,
    "plan": plan,
    "search": search,
    "evaluate": evaluate,
    "predict": predict,
    "doctor": doctor,
    "card": card,
    "push": push,
}


# From a job to a result


def _run_job(recipe: Recipe, arguments: Sequence[str], started: list[str]) -> None:
    _start(parse(RunJob, RunJob(recipe), arguments, shlex.join(started)), [*started, *arguments])


def _start(job: RunJob, command: list[str]) -> None:
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
    with _importing():
        from hf_finetune.pipeline.run import run as run_recipe

    result = run_recipe(job.recipe, job.launch, command=public_command(command))
    if result is not None:
        _report(job, result)


@contextlib.contextmanager
def _importing() -> Iterator[None]:
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
    with _importing():
        from hf_finetune.pipeline.learning_rate_finder import describe, find_rate

    found = find_rate(job.recipe, job.launch.output)
    print(json.dumps(found.to_dict(), indent=2) if job.json else describe(found))


def _report(job: RunJob, result: dict[str, Any]) -> None:
    if job.json:
        print(json.dumps(result, indent=2))
        return
    from hf_finetune.evaluation.report import comparison_table

    judged = "test" if "test" in result["metrics"] else "validation"
    rows = [{"name": "this model", **result["metrics"][judged]}]
    rows += [{**found, "name": f"{key} ({found['name']})"} for key, found in result["baselines"].items()]
    print(f"{result['name']} on {result['rows'][judged]} {judged} rows, 95% intervals")
    print(comparison_table(rows, metrics=SHOWN))
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


def read_run(folder: Path) -> tuple[Recipe, dict[str, Any]]:
    """Recipe and result of a finished run.

    Raises:
        InputError: when the folder holds none.
    """
    try:
        record = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{folder}: no {Path(error.filename).name}; expected the folder of a finished run") from None
    except ValueError as error:
        raise InputError(f"{folder}: recipe.json or result.json is not valid JSON ({error})") from None
    if not isinstance(record, dict) or "recipe" not in record:
        raise InputError(f"{folder}: recipe.json holds no recipe; expected the folder of a finished run")
    blank = Recipe(name="", data=TextData(path=""), model=Model(checkpoint=""))
    return merge(blank, record["recipe"]), result


# Entry points


def main_command(arguments: Sequence[str] | None = None) -> None:
    """`hf-finetune`: run a command and leave with its exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        raise SystemExit(0 if arguments else 2)
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(version("hf_finetune"))
        return
    with exit_status():
        command = COMMANDS.get(arguments[0])
        if command is None:
            raise InputError(f"hf-finetune {arguments[0]}: no such command; one of {', '.join(COMMANDS)}")
        command(arguments[1:])


def main(recipe: Callable[[], Recipe]) -> None:
    """Run a recipe script: `python recipe.py --train.seed 1`, or under `accelerate launch`."""
    with exit_status():
        _run_job(shipped.make(recipe, Path(sys.argv[0])), sys.argv[1:], [sys.argv[0]])


def _usage() -> str:
    lines = [f"  {name:<11} {' '.join((command.__doc__ or '').split())}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: hf-finetune COMMAND ...",
            "",
            "From labelled text or images to a verified classifier on the Hugging Face Hub.",
            "",
            *lines,
            "",
            "hf-finetune COMMAND --help tells a command's flags; every field of a recipe is one.",
        ]
    )
