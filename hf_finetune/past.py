"""What finished runs were trained on, where their folders tell: on rows that they know, every number is too good."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hf_finetune import codec
from hf_finetune.data.load import Splits
from hf_finetune.data.splits import row_digests
from hf_finetune.errors import InputError
from hf_finetune.preparation import load_splits
from hf_finetune.recipe import Model, Recipe, TextData

logger = logging.getLogger("hf_finetune.run")


def doubts_of_teachers(names: Sequence[str], splits: Splits) -> list[str]:
    """A line for each teacher that was trained on rows which are scored here.

    Args:
        names: of the teachers, as the user wrote them.
        splits: of this run.
    """
    return [
        f"the teacher {Path(name).name} was trained on {seen}: its answers to them are too good, and what is said of it and "
        "its student by them"
        for name in names
        for seen in _scored(name, splits)
    ]


def doubts_of_start(recipe: Recipe, splits: Splits) -> list[str]:
    """The same of the run that a recipe's own network begins from."""
    if recipe.model.from_config is not None:
        return []
    name = recipe.model.checkpoint
    return [
        f"{Path(name).name}, which this run starts from, was trained on {seen}: what is measured on them may be too good"
        for seen in _scored(name, splits)
    ]


def trained_on(folder: Path, *, fingerprint: str | None = None, from_hub: bool = True) -> set[bytes]:
    """Digests, see `data.splits.row_digests`, of the rows that a run and those before it, from which it began, trained on.

    A run's folder holds its recipe and the fingerprint of its data, which are read again, as long as they are still those of
    the fingerprint. Of a folder or of data that do not tell, there are none.

    Args:
        folder: of the run, or its model/.
        fingerprint: of data whose training rows are left out.
        from_hub: read data of the Hub as well, which may have to be fetched again.
    """
    found: set[bytes] = set()
    looked_at: set[Path] = set()
    while (file := _recipe_file(folder)) is not None and file.resolve() not in looked_at:
        looked_at.add(file.resolve())
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            blank = Recipe(name="", data=TextData(path=""), model=Model(checkpoint=""))
            recipe = codec.merge(blank, record["recipe"])
            here = from_hub or Path(recipe.data.path).expanduser().exists()
            if here and record["fingerprint"] != fingerprint:
                with _quietly():
                    splits = load_splits(recipe)
                if splits.fingerprint == record["fingerprint"]:
                    found.update(row_digests(splits.train.with_format("arrow")[:]))
                else:
                    logger.info("%s: its data are others than it was trained on; what it has seen is not known", folder)
        except (OSError, ValueError, KeyError, TypeError, InputError):
            logger.info("%s: what it was trained on cannot be read again", folder)
            break
        if recipe.model.from_config is not None:
            break
        folder = Path(recipe.model.checkpoint)
    return found


def _scored(name: str, splits: Splits) -> list[str]:
    """How many of the rows that are scored here a run was trained on, split by split; none of a split is not said.

    A run on this run's data has the same rows in the same splits.
    """
    trained = trained_on(Path(name), fingerprint=splits.fingerprint)
    found = []
    for split, rows in (("validation", splits.validation), ("test", splits.test)):
        digests = row_digests(rows.with_format("arrow")[:]) if trained and rows is not None else []
        if seen := sum(digest in trained for digest in digests):
            found.append(f"{seen} of the {len(digests)} {split} rows")
    return found


def _recipe_file(folder: Path) -> Path | None:
    """The recipe of the run that wrote a folder; None: it is no run's."""
    folder = folder.expanduser()
    if not folder.is_dir():
        return None
    return next((f for f in (folder / "recipe.json", folder.parent / "recipe.json") if f.is_file()), None)


@contextmanager
def _quietly() -> Iterator[None]:
    """What is said of these data was said to who trained on them."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
