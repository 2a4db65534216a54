"""What a finished run's recipe and result say about its model, base, data and scored split."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from hf_finetune.config.recipe import Recipe, recipe_from_plain
from hf_finetune.errors import InputError
from hf_finetune.hub.local_paths import is_local, last_name

RUN_DOCUMENTS = ("recipe.json", "result.json")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FILE = re.compile(r".*\.(csv|tsv|jsonl?|parquet|txt|zip)", re.IGNORECASE)


@dataclass(frozen=True)
class RunFacts:
    """A recipe and the content of its result.json; nothing is looked up on disk or on the Hub."""

    recipe: Recipe
    result: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a finished run's folder, of whatever version.

        Raises:
            InputError: it holds none.
        """
        record, result = read_documents(folder)
        return cls(recipe_from_plain(record["recipe"]), result)

    @cached_property
    def data(self) -> Mapping[str, Any]:
        """The result's part about the data."""
        return self.result.get("data", {})

    @cached_property
    def teacher(self) -> Mapping[str, Any]:
        """The result's part about the teacher; {}: there was none."""
        return self.result.get("teacher") or {}

    @cached_property
    def reads_text(self) -> bool:
        """Whether it classifies texts, not images."""
        return self.result["task"] == "text-classification"

    @cached_property
    def reads_pairs(self) -> bool:
        """Whether it classifies pairs of texts."""
        return "text_pair" in self.data.get("columns", {})

    @cached_property
    def split(self) -> str:
        """The split that the claims are about: test, or validation without one."""
        return "test" if "test" in self.result["metrics"] else "validation"

    @cached_property
    def metrics(self) -> Mapping[str, Any]:
        """The metrics of that split, with intervals."""
        return self.result["metrics"][self.split]

    @cached_property
    def standalone(self) -> bool:
        """Whether model/ loads as a stock class."""
        return self.result.get("standalone", True)

    @cached_property
    def has_own_head(self) -> bool:
        """Whether encoder/ and head.safetensors stand in place of model/."""
        return "encoder" in self.result.get("artefacts", ())

    @cached_property
    def has_adapter(self) -> bool:
        """Whether the run saved adapter/."""
        adapts = self.result["method"] not in ("full", "top", "head") and not self.recipe.model.surgery
        return adapts and "adapter" in self.result.get("artefacts", ("adapter",))

    @cached_property
    def base_model(self) -> str | None:
        """The checkpoint's Hub id; what only looks like one is a path when the result says so."""
        checkpoint = self.recipe.model.checkpoint
        if "base_model" in self.result:
            base = self.result["base_model"]
        elif _is_hub_id(checkpoint) and self.result.get("checkpoint", checkpoint) == checkpoint:
            base = checkpoint
        else:
            base = self.recipe.model.base_model
        return base if base is not None and re.fullmatch(r"[\w-][\w./-]*", base) and base.count("/") < 2 else None

    @cached_property
    def checkpoint_name(self) -> str:
        """The checkpoint as the user named it, a path by its last name."""
        return _name(self.recipe.model.checkpoint)

    @cached_property
    def data_id(self) -> str | None:
        """The data's Hub id; None: local data."""
        path = self.recipe.data.path
        return path if _is_hub_id(path) and self.data.get("path_name", path) == path else None

    @cached_property
    def data_name(self) -> str:
        """The data's Hub id, or a local path's last name."""
        return self.data_id or self.data.get("path_name") or _name(self.recipe.data.path)

    @cached_property
    def data_license(self) -> str | None:
        """The license of the data, where it is known."""
        return self.recipe.data.license or self.data.get("license")


def read_documents(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the content of a finished run's recipe.json and result.json.

    Raises:
        InputError: the folder lacks one of them, or it is damaged.
    """
    try:
        record, result = (json.loads((folder / name).read_text(encoding="utf-8")) for name in RUN_DOCUMENTS)
    except OSError as error:
        raise InputError(f"{folder}: no {Path(error.filename).name}; expected the folder of a finished run") from None
    except ValueError as error:
        raise InputError(f"{folder}: recipe.json or result.json is not valid JSON ({error})") from None
    if not isinstance(record, dict) or "recipe" not in record:
        raise InputError(f"{folder}: recipe.json holds no recipe; expected the folder of a finished run")
    return record, result


def _is_hub_id(text: str) -> bool:
    return HUB_ID.fullmatch(text) is not None and FILE.fullmatch(text) is None


def _name(path: str) -> str:
    return last_name(path) if is_local(path) else path
