"""What a teacher was trained on, where its folder tells: rows that this run is judged by teach it nothing that holds."""

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


def seen_before(names: Sequence[str], splits: Splits) -> list[str]:
    """A line for each teacher that was trained on rows which are scored here.

    A run's folder holds its recipe and the fingerprint of its data. Where that is this run's, both have the same rows in the
    same splits. Else the teacher's data are read again, as long as they are still those of the fingerprint, and compared row
    by row. Of a teacher whose folder or data do not tell, nothing is said.

    Args:
        names: of the teachers, as the user wrote them.
        splits: of this run.
    """
    found = []
    for name in names:
        trained = _trained_on(Path(name).expanduser(), splits.fingerprint)
        for split, rows in (("validation", splits.validation), ("test", splits.test)):
            digests = [] if rows is None else row_digests(rows.with_format("arrow")[:])
            if seen := sum(digest in trained for digest in digests):
                found.append(
                    f"the teacher {Path(name).name} was trained on {seen} of the {len(digests)} {split} rows: its answers to "
                    "them are too good, and what is said of it and its student by them"
                )
    return found


def _trained_on(folder: Path, fingerprint: str) -> set[bytes]:
    """Digests of the rows that the run in a folder trained on; empty where it trained on this run's or does not tell."""
    file = next((f for f in (folder / "recipe.json", folder.parent / "recipe.json") if f.is_file()), None)
    if file is None or not folder.is_dir():
        return set()
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if record["fingerprint"] == fingerprint:
            return set()
        blank = Recipe(name="", data=TextData(path=""), model=Model(checkpoint=""))
        with _quietly():
            theirs = load_splits(codec.merge(blank, record["recipe"]))
    except (OSError, ValueError, KeyError, TypeError, InputError):
        logger.info("%s: what it was trained on cannot be read again", folder)
        return set()
    if theirs.fingerprint != record["fingerprint"]:
        logger.info("%s: its data are others than it was trained on; what it has seen is not known", folder)
        return set()
    return set(row_digests(theirs.train.with_format("arrow")[:]))


@contextmanager
def _quietly() -> Iterator[None]:
    """What is said of the teacher's data was said to who trained it."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
