"""The command line: `hf-finetune COMMAND`, and `main(recipe)` for a recipe script.

Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hf_finetune.errors import InputError
from hf_finetune.utils.exit_status import exit_status

HELP = {
    "quickstart": "the main job on an embedded checkpoint and data set, offline, in minutes",
    "train": "fine-tune a classifier on your own data",
    "run": "run a recipe, by path or by name",
    "list": "the shipped recipes",
    "cp": "copy a shipped recipe to own it",
    "plan": "what train DATA or run RECIPE would do and cost; keeps nothing",
    "search": "search a policy of augmentation for your own data",
    "evaluate": "score a finished model on labeled rows",
    "predict": "label rows with a finished model",
    "doctor": "check a data set for problems; preview its augmentation",
    "card": "render the model card of a run again",
    "push": "publish a finished run on the Hub, pull it back and compare",
    "schema": "the JSON Schema of a recipe file, for editors to complete and check it",
}


@cache
def commands() -> dict[str, Callable[[Sequence[str]], None]]:
    """Import the commands, by name."""
    from hf_finetune.cli.card import card
    from hf_finetune.cli.doctor import doctor
    from hf_finetune.cli.evaluate import evaluate
    from hf_finetune.cli.plan import plan
    from hf_finetune.cli.predict import predict
    from hf_finetune.cli.push import push
    from hf_finetune.cli.recipes import copy_recipe, list_recipes
    from hf_finetune.cli.run import quickstart, run
    from hf_finetune.cli.schema import schema
    from hf_finetune.cli.search import search
    from hf_finetune.cli.train import train

    return {
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
        "schema": schema,
    }


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
        command = commands().get(arguments[0])
        if command is None:
            raise InputError(f"hf-finetune {arguments[0]}: no such command; one of {', '.join(HELP)}")
        command(arguments[1:])


def main(recipe: Callable[[], Any]) -> None:
    """Run a script whose function returns a Recipe: `python recipe.py --train.seed 1`, or by `accelerate launch`."""
    from hf_finetune.cli.arguments import RunJob, make_recipe
    from hf_finetune.cli.run import run_job

    with exit_status():
        run_job(RunJob(make_recipe(recipe, Path(sys.argv[0]))), sys.argv[1:], [sys.argv[0]])


def _usage() -> str:
    lines = [f"  {name:<11} {text}" for name, text in HELP.items()]
    return "\n".join(
        [
            "usage: hf-finetune COMMAND ...",
            "",
            "From labeled text or images to a verified classifier on the Hugging Face Hub.",
            "",
            *lines,
            "",
            "hf-finetune COMMAND --help tells a command's flags; every field of a recipe is one.",
        ]
    )
