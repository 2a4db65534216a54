"""search.json: the state of a search, from which it is resumed."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from hf_finetune.errors import InputError
from hf_finetune.pipeline.resume import refuse_changes
from hf_finetune.search.config import SearchOptions
from hf_finetune.utils.files import read_json

State = dict[str, Any]
"""The content of search.json."""
SCHEMA = 3
"""Version of the content. 2: image size of the final runs. 3: names of costs and plans."""


def read_state(folder: Path) -> State | None:
    """Return the state of the unfinished search in the folder, or None if it has not saved any yet.

    Raises:
        InputError: the search is finished or damaged, or the folder is not that of a search.
    """
    path = folder / "search.json"
    if not path.exists():
        # A search that was killed at its start leaves only recipe.json.
        if any(p.name != "recipe.json" and not p.name.startswith(".") for p in folder.glob("*")):
            raise InputError(f"--output {folder}: no search.json, this is not the folder of a search; name another one")
        return None
    state = read_json(path, "start a new search in another folder")
    if state.get("schema") != SCHEMA:
        raise InputError(
            f"{path}: schema {state.get('schema')}, expected {SCHEMA}: it is of another version of hf_finetune; "
            "start a new search in another folder"
        )
    if "verdict" in state:
        raise InputError(f"--output {folder}: the search in it is finished, there is nothing to resume")
    return state


def check_same(folder: Path, state: State, record: dict[str, Any], options: SearchOptions, space: list[str]) -> None:
    """Refuse to resume a search with other settings.

    Args:
        state: see `read_state`.
        record: what recipe.json must equal, see `pipeline.resume.refuse_changes`.
        options: current options.
        space: current names of the operations in the space.

    Raises:
        InputError: naming the difference.
    """
    refuse_changes(folder, record)
    before = {**state["search"], "space": state["space"]}
    for name, value in {**asdict(options), "space": space}.items():
        if before.get(name) != value:
            raise InputError(
                f"{name}: the search in {folder} has {before.get(name)!r}, now it is {value!r}; resume with the same "
                "value, or start a new search"
            )
