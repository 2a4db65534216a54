"""The command line: `hf-finetune COMMAND`, and `main(recipe)` for a recipe script."""

import atexit
import gc
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hf_finetune.errors import InputError
from hf_finetune.utils.console import say_loading
from hf_finetune.utils.exit_status import exit_status
from hf_finetune.utils.messages import did_you_mean


class Command(NamedTuple):
    """A command, imported when it runs, so that the help stays fast."""

    function: str
    """Its `MODULE:FUNCTION` in this package."""
    help: str

    def run(self, arguments: Sequence[str]) -> None:
        """Run the command with the arguments that follow its name."""
        from pkgutil import resolve_name

        resolve_name(f"hf_finetune.cli.{self.function}")(arguments)


COMMANDS = {
    "quickstart": Command("run:quickstart", "fine-tune on embedded texts, or images (--image), in minutes"),
    "train": Command("train:train", "fine-tune a classifier on your own data"),
    "run": Command("run:run", "run a recipe, by path or by name"),
    "list": Command("recipes:list_recipes", "list the shipped recipes"),
    "cp": Command("recipes:copy_recipe", "copy a shipped recipe to own it"),
    "plan": Command("plan:plan", "estimate time and memory of train DATA or run RECIPE, in seconds"),
    "rank": Command("rank:rank", "rank checkpoints for your data by probes on their features"),
    "search": Command("search:search", "search an augmentation policy for your own data"),
    "evaluate": Command("evaluate:evaluate", "score a finished model on labeled rows"),
    "compare": Command("compare:compare", "compare finished runs row by row on the rows they share"),
    "predict": Command("predict:predict", "label rows with a finished model"),
    "export": Command("export:export", "write a model in the format of another runtime, and verify it"),
    "compress": Command("compress:compress", "prune and quantize a finished model, and prove what it kept"),
    "serve": Command("serve:serve", "answer requests over HTTP with a finished model"),
    "features": Command("features:features", "write features of rows: classical, or of any layer of a model"),
    "doctor": Command("doctor:doctor", "check a data set for problems, or preview its augmentation"),
    "card": Command("card:card", "render the model card of a run again"),
    "verify": Command("verify:verify", "compare the files of a run, or of a repository, with their hashes"),
    "push": Command("push:push", "push a finished run to the Hub, pull it back and compare"),
    "schema": Command("schema:schema", "print the JSON Schema of a recipe file, for editors"),
}

COLLECTED_EVERY = 50_000
"""New objects between two searches for garbage, in place of Python's 700 to 2,000: the libraries are half a million
objects, to search which takes .3 s. It was done often while they were imported, and for a second at the end of each
command."""

LIGHT = tuple(COMMANDS[name] for name in ("list", "cp", "schema"))
"""The commands that are done before a first line would be read."""


def main_command(arguments: Sequence[str] | None = None) -> None:
    """Run `hf-finetune` and leave with its exit status."""
    _collect_rarely()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["help"]:
        # `help train` is `train --help`.
        arguments = [*arguments[1:2], "--help"]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        raise SystemExit(0 if arguments else 2)
    if arguments[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(version("hf_finetune"))
        return
    with exit_status():
        command = COMMANDS.get(arguments[0])
        if command is None:
            hint = did_you_mean(arguments[0], [*COMMANDS, "help"])
            raise InputError(f"hf-finetune {arguments[0]}: no such command{hint}; one of {', '.join(COMMANDS)}")
        if command not in LIGHT:
            say_loading()
        command.run(arguments[1:])


def main(recipe: Callable[[], Any]) -> None:
    """Run a script whose function returns a Recipe: `python recipe.py --train.seed 1`, or by `accelerate launch`."""
    _collect_rarely()
    from hf_finetune.cli.run import run_job
    from hf_finetune.cli.run_job import RunJob, call_recipe

    with exit_status():
        run_job(RunJob(call_recipe(recipe, Path(sys.argv[0]))), sys.argv[1:], [sys.argv[0]])


def _collect_rarely() -> None:
    """Search for garbage rarely, and not at all when the process ends."""
    gc.set_threshold(COLLECTED_EVERY, *gc.get_threshold()[1:])
    atexit.register(gc.freeze)


def _usage() -> str:
    commands = "\n".join(f"  {name:<11} {command.help}" for name, command in COMMANDS.items())
    return f"""usage: hf-finetune COMMAND ...

From labeled text or images to a verified classifier on the Hugging Face Hub.

{commands}

hf-finetune COMMAND --help lists the flags of a command, `train --help-all`
every field of a recipe."""
