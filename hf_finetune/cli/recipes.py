"""`hf-finetune list` and `cp`: the shipped recipes."""

import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hf_finetune.cli import shipped
from hf_finetune.cli.parsing import parse
from hf_finetune.utils.console import line_width

NARROWEST = 20
"""Columns for the summaries of recipes on a narrow terminal. Elsewhere each is one line."""


@dataclass(frozen=True)
class ListJob:
    """List the shipped recipes, each with its first line."""


@dataclass(frozen=True)
class CopyJob:
    """Copy a shipped recipe to own it."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """Name of the recipe, see `hf-finetune list`."""
    dest: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DEST")]
    """File or folder to copy it to."""


def list_recipes(arguments: Sequence[str]) -> None:
    parse(ListJob, arguments, "hf-finetune list")
    summaries = shipped.summaries()
    width = max(map(len, summaries)) + 2
    # None: closed.
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    for name, summary in summaries.items():
        lines = textwrap.wrap(summary, max(line_width() - width, NARROWEST)) if is_terminal else [summary]
        print(f"{name:<{width}}" + f"\n{'':{width}}".join(lines))


def copy_recipe(arguments: Sequence[str]) -> None:
    job = parse(CopyJob, arguments, "hf-finetune cp")
    print(shipped.copy(job.name, Path(job.dest)))
