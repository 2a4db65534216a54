"""What search.json holds of a search that was begun, so that it can go on."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hf_finetune.errors import InputError
from hf_finetune.pipeline.resume import refuse_changes
from hf_finetune.search.config import SearchOptions

State = dict[str, Any]
"""The content of search.json."""
SCHEMA = 2
"""Of search.json. 2: the side of the images that decide."""


def state_in(folder: Path) -> State | None:
    """What search.json holds of the search in the folder; None: there is none yet.

    Raises:
        InputError: it is finished or damaged, or the folder is that of a run.
    """
    path = folder / "search.json"
    if not path.exists():
        # A search that was killed at its start leaves recipe.json alone; any other file is of something else.
        if any(p.name != "recipe.json" and not p.name.startswith(".") for p in folder.glob("*")):
            raise InputError(f"--output {folder}: no search.json, this is not the folder of a search; name another one")
        return None
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}); start the search anew in another folder") from None
    if state.get("schema") != SCHEMA:
        raise InputError(
            f"{path}: schema {state.get('schema')}, expected {SCHEMA}: it is of another version of hf_finetune; "
            "start the search anew in another folder"
        )
    if "verdict" in state:
        raise InputError(f"--output {folder}: the search in it is finished, there is nothing to resume")
    return state


def check_same(folder: Path, state: State, record: dict[str, Any], options: SearchOptions, space: list[str]) -> None:
    """Refuse to go on with another search.

    Args:
        state: see `state_in`.
        record: what its recipe.json is compared with, see `pipeline.resume.refuse_changes`.
        options: of the search now.
        space: names of the operations that there are now.

    Raises:
        InputError: naming what differs.
    """
    refuse_changes(folder, record)
    before = {**state["search"], "space": state["space"]}
    for name, value in {**asdict(options), "space": space}.items():
        if before.get(name) != value:
            raise InputError(
                f"{name}: the search in {folder} has {before.get(name)!r}, now it is {value!r}; resume with the same "
                "value, or start a new search"
            )
