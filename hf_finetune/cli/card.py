"""`hf-finetune card`: the model card of a run, rendered again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from hf_finetune.cli.parsing import parse
from hf_finetune.config.aliases import recipe_from_plain
from hf_finetune.config.recipe import Recipe
from hf_finetune.errors import InputError
from hf_finetune.utils.files import write_text


@dataclass(frozen=True)
class CardJob:
    """Render the model card of a finished run."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""


def card(arguments: Sequence[str]) -> None:
    """render the model card of a run again"""
    job = parse(CardJob, None, arguments, "hf-finetune card")
    from hf_finetune.hub.card import render_card

    recipe, result = read_run(Path(job.run))
    text = render_card(recipe, result)
    write_text(Path(job.run) / "README.md", text)
    print(text, end="")


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
    return recipe_from_plain(record["recipe"]), result
