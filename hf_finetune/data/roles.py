"""Which split of DATA trains, chooses and judges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hf_finetune.data.columns import did_you_mean, listed
from hf_finetune.data.sources import Layout, Role, Split, role_of
from hf_finetune.errors import InputError


def train_split(layout: Layout, path: str) -> Split:
    """The split called train, or the only one there is, unless its name says that it is for something else.

    Raises:
        InputError: when there is none, or several could be it.
    """
    if "train" in layout.splits:
        return layout.splits["train"]
    if len(layout.splits) == 1 and role_of(only := next(iter(layout.splits))) in (None, "train"):
        return layout.splits[only]
    raise InputError(f"{path}: no split is called train; it has {listed(list(layout.splits))}")


def named_split(layout: Layout, name: str, flag: str, path: str, open_path: Callable[[str], Layout]) -> Split:
    """A split of the data by its name, or the rows of a path of its own.

    Args:
        open_path: finds the splits at a path.

    Raises:
        InputError: when it is neither, or the path holds several splits.
    """
    for splits in (layout.splits, layout.others):
        if name in splits:
            return splits[name]
    if not Path(name).expanduser().exists():
        known = [*layout.splits, *layout.others]
        raise InputError(
            f"{flag} {name}: no such file or folder, and no split of {path}{did_you_mean(name, known)}; "
            f"it has {listed(known)}"
        )
    found = open_path(name).splits
    if len(found) > 1:
        raise InputError(
            f"{flag} {name}: it holds several splits ({listed(list(found))}); name one file or folder of them"
        )
    return replace(next(iter(found.values())), name=Path(name).name)


def splits_for(layout: Layout, role: Role, taken: list[Split]) -> list[Split]:
    """Splits that are for this by their name: those of a plain name alone if there are, else all that begin so."""
    free = [split for split in layout.splits.values() if not any(split.same_rows(t) for t in taken)]
    exact = [split for split in free if role_of(split.name, exact=True) == role]
    return exact or [split for split in free if role_of(split.name) == role]


def split_to_read(layout: Layout, path: str, asked: str | None, usable: Callable[[Split], bool]) -> Split:
    """The split that is scored or labelled: as asked, else test if usable, else validation, else train.

    Raises:
        InputError: when there is no such split, or several could be it.
    """
    if asked is not None:
        known = layout.splits | layout.others
        if asked not in known:
            raise InputError(
                f"--split {asked}: {path} has no such split{did_you_mean(asked, known)}; it has {listed(list(known))}"
            )
        return known[asked]
    if len(layout.splits) == 1:
        return next(iter(layout.splits.values()))
    for role in ("test", "validation", "train"):
        found = [split for split in splits_for(layout, role, []) if usable(split)]
        if len(found) > 1:
            raise InputError(
                f"{path}: several splits could be read; name one by --split: {listed([s.name for s in found])}"
            )
        if found:
            return found[0]
    raise InputError(f"{path}: name the split to read by --split; it has {listed(list(layout.splits))}")
