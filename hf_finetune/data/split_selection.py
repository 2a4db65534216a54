"""Select the training, validation and test splits of a data source: by name, or as the user requests."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from hf_finetune.data.columns import choose_columns, require_columns
from hf_finetune.data.config import Kind, Role, Source, SplitOptions
from hf_finetune.data.layout import Layout, Split, role_of, skipped_files
from hf_finetune.data.memory import is_in_memory
from hf_finetune.data.readers.table import Column
from hf_finetune.data.rows import has_labels
from hf_finetune.data.sources import locate
from hf_finetune.data.targets.choose import words_column
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import Notes, did_you_mean, listed


@dataclass(frozen=True)
class Selection:
    """The splits and columns that a run reads."""

    labeled: dict[Role, Split]
    unlabeled: tuple[Split, ...]
    """Further training rows without labels."""
    columns: dict[str, str]
    """The columns of the training rows, by canonical name."""


def select_splits(source: Source, kind: Kind, options: SplitOptions, notes: Notes) -> Selection:
    """Select the splits and columns of a run.

    Raises:
        InputError: a split or column is missing or not obvious, or a split has no labels.
    """
    layout = locate(source, kind=kind, labeled=True)
    for note in layout.notes:
        notes.add(note)
    train = train_split(layout, source.path)
    requested = source.columns(kind)
    columns = choose_columns(
        train.columns, requested, kind=kind, need_label=True, place=train.place, cells=train.first_cells
    )
    if kind == "text" and requested["text"] is None and source.task in (None, "tokens"):
        taken = [column for name, column in columns.items() if name != "text"]
        if (words := words_column(train, columns["label"], taken)) is not None:
            columns = {"text": words, "label": columns["label"]}
    note_inferred(columns, requested, train.columns, notes)
    labeled: dict[Role, Split] = {"train": train}
    named: dict[Role, str | None] = {"validation": options.validation, "test": options.test}
    for role, name in named.items():
        if name is not None:
            labeled[role] = named_split(layout, name, f"--{role}", source, kind)
            require_columns(columns, labeled[role].columns, place=labeled[role].place, like=train.place)
    _refuse_shared(labeled)
    for role, name in named.items():
        if name is None and (split := _split_by_role(layout, role, list(labeled.values()), source.path, notes)):
            labeled[role] = split
    unlabeled = tuple(
        named_split(layout, name, "--unlabeled", source, kind, labeled=False) for name in options.unlabeled
    )
    read = [*labeled.values(), *unlabeled]
    if unused := [name for name, split in layout.splits.items() if not any(split.same_rows(each) for each in read)]:
        notes.add(f"splits not used: {listed(unused)}")
    labeled = _with_labels(labeled, columns["label"], options, notes)
    for note in dict.fromkeys(note for split in (*labeled.values(), *unlabeled) for note in split.notes):
        notes.add(note)
    if any(split.skipped for split in (*labeled.values(), *unlabeled)):
        notes.add(skipped_files([*labeled.values(), *unlabeled]))
    return Selection(labeled, unlabeled, columns)


def note_inferred(
    chosen: dict[str, str], requested: dict[str, str | None], columns: dict[str, Column], notes: Notes
) -> None:
    """Note the columns that were inferred, and those that are not used."""
    inferred = [f"{name} from column {column!r}" for name, column in chosen.items() if requested[name] is None]
    # Of a damaged file, a name may be a whole text.
    others = [
        repr(column if len(column) <= 60 else f"{column[:60]}...")
        for column in columns
        if column not in chosen.values()
    ]
    if inferred:
        notes.add("inferred: " + ", ".join(inferred) + (f" (not used: {listed(others)})" if others else ""))


def _refuse_shared(splits: dict[Role, Split]) -> None:
    """Refuse rows that are both training and evaluation rows, or validation and test rows."""
    for (other, first), (role, second) in combinations(splits.items(), 2):
        if second.same_rows(first):
            raise InputError(f"--{role}: {second.place} is {other} already; name other rows, or leave --{role} out")


def _split_by_role(layout: Layout, role: Role, taken: list[Split], path: str, notes: Notes) -> Split | None:
    """Return the data's own split for a role. Of several, validation must be named; test is left out."""
    candidates = splits_for(layout, role, taken)
    if len(candidates) == 1:
        return candidates[0]
    names = listed([split.name for split in candidates])
    if candidates and role == "validation":
        raise InputError(f"{path}: several splits could be validation; name one by --validation: {names}")
    if candidates:
        notes.add(f"several splits could be test, none is used; name one by --test: {names}")
    return None


def _with_labels(splits: dict[Role, Split], label: str, options: SplitOptions, notes: Notes) -> dict[Role, Split]:
    """Drop splits without labels; refuse one that needs labels."""
    labeled: dict[Role, Split] = {}
    for role, split in splits.items():
        if has_labels(split, label):
            labeled[role] = split
        elif role == "train" or (role == "validation" and options.validation is not None):
            raise InputError(
                f"{split.place}: every label in column {label!r} is empty or -1; expected labeled rows for {role}"
            )
        else:
            notes.add(f"{role}: no row of {split.name} has a label (all are -1 or empty), so it is not evaluated")
    return labeled


def train_split(layout: Layout, path: str) -> Split:
    """Return the split named train, or the only split unless its name tells another role.

    Raises:
        InputError: there is none, or there are several candidates.
    """
    if "train" in layout.splits:
        return layout.splits["train"]
    if len(layout.splits) == 1 and role_of(only := next(iter(layout.splits))) in (None, "train"):
        return layout.splits[only]
    raise InputError(f"{path}: no split is called train; it has {listed(list(layout.splits))}")


def named_split(layout: Layout, name: str, flag: str, source: Source, kind: Kind, *, labeled: bool = True) -> Split:
    """Return a split of the data by its name, or the rows of another file or folder.

    Args:
        layout: the splits of `source`.
        labeled: refuse a folder without class folders.

    Raises:
        InputError: there is no such split or path, or the path has several splits.
    """
    if name in layout.by_name:
        return layout.by_name[name]
    if not is_in_memory(name) and not Path(name).expanduser().exists():
        raise InputError(
            f"{flag} {name}: no such file or folder, and no split of {source.path}"
            f"{did_you_mean(name, layout.by_name)}; it has {listed(list(layout.by_name))}"
        )
    splits = locate(source.elsewhere(name), kind=kind, labeled=labeled).splits
    if len(splits) > 1:
        raise InputError(
            f"{flag} {name}: it holds several splits ({listed(list(splits))}); name one file or folder of them"
        )
    return replace(next(iter(splits.values())), name=Path(name).name)


def splits_for(layout: Layout, role: Role, taken: list[Split]) -> list[Split]:
    """Return the splits whose name is the role, else those whose name begins with it."""
    free = [split for split in layout.splits.values() if not any(split.same_rows(t) for t in taken)]
    exact = [split for split in free if role_of(split.name, exact=True) == role]
    return exact or [split for split in free if role_of(split.name) == role]


def split_to_read(layout: Layout, path: str, name: str | None, usable: Callable[[Split], bool]) -> Split:
    """Return the split to predict or evaluate: by its name, else test if usable, else validation, else train.

    Raises:
        InputError: there is no such split, or there are several candidates.
    """
    if name is not None:
        if name not in layout.by_name:
            raise InputError(
                f"--split {name}: {path} has no such split{did_you_mean(name, layout.by_name)}; "
                f"it has {listed(list(layout.by_name))}"
            )
        return layout.by_name[name]
    if len(layout.splits) == 1:
        return next(iter(layout.splits.values()))
    roles: tuple[Role, ...] = ("test", "validation", "train")
    for role in roles:
        candidates = [split for split in splits_for(layout, role, []) if usable(split)]
        if len(candidates) > 1:
            names = listed([split.name for split in candidates])
            raise InputError(f"{path}: several splits could be read; name one by --split: {names}")
        if candidates:
            return candidates[0]
    raise InputError(f"{path}: name the split to read by --split; it has {listed(list(layout.splits))}")
