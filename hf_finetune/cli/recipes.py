"""`hf-finetune list` and `cp`: the shipped recipes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hf_finetune.cli import shipped
from hf_finetune.cli.parsing import parse, usage_or_help

LIST_HELP = """hf-finetune list

The shipped recipes, each with its first line."""


@dataclass(frozen=True)
class CopyJob:
    """Copy a shipped recipe to own it."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """Name of the recipe, see `hf-finetune list`."""
    dest: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DEST")]
    """File or folder to copy it to."""


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
