"""DATA as the user names it (a file, a folder, a Hub id), and the splits that it holds."""

from __future__ import annotations

import functools
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hf_finetune.data import class_folder
from hf_finetune.data.class_folder import ClassFolder, Kind, find_classes, is_hidden
from hf_finetune.data.columns import listed
from hf_finetune.data.files import SUFFIXES, Chunk, Column, CsvFile, JsonFile
from hf_finetune.data.from_hub import HubSplit, hub_splits
from hf_finetune.data.parquet import ParquetFile
from hf_finetune.errors import InputError

Role = Literal["train", "validation", "test"]
Source = CsvFile | JsonFile | ParquetFile | ClassFolder | HubSplit

_ROLES: dict[str, Role] = {"train": "train", "test": "test"}
_ROLES |= {name: "validation" for name in ("validation", "valid", "val", "dev")}
# A shard as `datasets` writes it: train-00000-of-00002, in older repositories with a hash behind.
_STEM = re.compile(r"(.+?)(?:-(\d{5,})-of-(\d{5,})(?:-[0-9a-f]+)?)?", re.IGNORECASE)
_FILE_LIKE = (*SUFFIXES, *class_folder.SUFFIXES["image"], ".txt", ".xls", ".xlsx", ".zip", ".gz", ".bz2", ".xz", ".zst")


def role_of(name: str, *, exact: bool = False) -> Role | None:
    """What a split's name says it is for: by the name itself, or unless `exact` by its beginning (`test_matched`)."""
    name = name.lower()
    return _ROLES.get(name) or (None if exact else _ROLES.get(re.split(r"[_-]", name)[0]))


@dataclass(frozen=True)
class Split:
    """Rows of one or several sources, one after the other."""

    name: str
    sources: tuple[Source, ...]

    @property
    def place(self) -> str:
        """Where its rows lie, for messages."""
        return self.sources[0].name

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of how its files are read."""
        return tuple(note for source in self.sources if isinstance(source, CsvFile) for note in source.notes)

    def same_rows(self, other: Split) -> bool:
        """Whether it reads the same files, however they are spelt, or the same split on the Hub."""
        return [os.path.realpath(s.name) for s in self.sources] == [os.path.realpath(s.name) for s in other.sources]

    @functools.cached_property
    def columns(self) -> dict[str, Column]:
        """Columns of the first source.

        Raises:
            InputError: when it cannot be read or holds no rows.
        """
        return self.sources[0].columns()

    def chunks(self, wanted: Sequence[str], size: int = 1024) -> Iterator[Chunk]:
        """Rows in order, at most `size` at a time.

        Raises:
            InputError: as the sources do, or when one lacks a column that the first has.
        """
        for source in self.sources:
            lacking = [c for c in wanted if source is not self.sources[0] and c not in source.columns()]
            if lacking:
                raise InputError(f"{source.name}: no column {lacking[0]!r}, which {self.place} has")
            yield from source.chunks(wanted, size)


@dataclass(frozen=True)
class Layout:
    """What DATA holds."""

    splits: dict[str, Split]
    others: dict[str, Split] = field(default_factory=dict)
    """Files beside the splits that count only when they are named."""
    notes: tuple[str, ...] = ()


def locate(
    path: str,
    *,
    kind: Kind | None,
    labelled: bool,
    config_name: str | None = None,
    revision: str | None = None,
    encoding: str = "utf-8",
) -> Layout:
    """Find the splits of DATA.

    Args:
        kind: which files of a folder of classes count; None: those that there are more of.
        labelled: refuse files that lie in no folder of a class.

    Raises:
        InputError: when there is no such file, folder or Hub data set, or nothing in it that can be read.
    """
    local = local_path(path)
    if local is None:
        found = hub_splits(path, config_name, revision)
        return Layout({name: Split(name, (source,)) for name, source in found.items()})
    for flag, value in (("--config-name", config_name), ("--revision", revision)):
        if value is not None:
            raise InputError(
                f"{flag} {value}: {path} is a local {'folder' if local.is_dir() else 'file'}; leave the flag out"
            )
    if local.is_dir():
        return _folder(local, kind, labelled, encoding)
    return Layout({"train": Split("train", (_file(local, encoding),))})


def local_path(path: str) -> Path | None:
    """The file or folder; None when there is none but the name has the shape of a Hub id.

    Raises:
        InputError: when it can be neither.
    """
    local = Path(path).expanduser()
    if path and local.exists():
        return local
    suffix = local.suffix.lower()
    file_like = suffix in _FILE_LIKE or ("/" not in path and suffix)
    if file_like or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", path):
        raise InputError(f"{path or 'DATA'}: no such file or folder; expected one, or a Hub id like stanfordnlp/sst2")
    return None


def _file(path: Path, encoding: str) -> Source:
    match path.suffix.lower():
        case ".csv" | ".tsv":
            return CsvFile(path, encoding)
        case ".json" | ".jsonl":
            return JsonFile(path, encoding)
        case ".parquet":
            return ParquetFile(path)
    what = f"{path.suffix} files" if path.suffix else "files without a suffix"
    raise InputError(f"{path}: cannot read {what}; expected one of {' '.join(SUFFIXES)}")


def _folder(root: Path, kind: Kind | None, labelled: bool, encoding: str) -> Layout:
    for folder in (root, root / "data"):
        if folder.is_dir() and any(role_of(stem, exact=True) for stem in _data_files(folder)):
            return _folder_of_files(folder, encoding)
    if found := _folder_of_folders(root, kind, encoding):
        return found
    if flat := find_classes(root, kind, encoding, flat=True):
        if labelled:
            raise InputError(
                f"{root}: its files have no class; expected one sub-folder per class, holding the class's files"
            )
        return Layout({"train": Split("train", (flat,))})
    raise _nothing_found(root, kind, encoding)


def _nothing_found(root: Path, kind: Kind | None, encoding: str) -> InputError:
    if other := _folder_of_folders(root, None, encoding):
        held = next(iter(other.splits.values())).sources[0].columns()
        found, wanted = ("texts", "pictures") if "text" in held else ("pictures", "texts")
        return InputError(
            f"{root}: the folder holds {found}, expected {wanted}; choose a checkpoint for {found}, or other data"
        )
    if loose := _data_files(root):
        file = next(iter(loose.values()))[0]
        return InputError(
            f"{root}: no file in it is called train, validation or test; name a file instead, like {file}"
        )
    content = {"image": "pictures", "text": ".txt files", None: "pictures or .txt files"}[kind]
    there = listed(sorted(p.name for p in root.iterdir())) or "nothing"
    return InputError(
        f"{root}: found no data; expected train, validation and test files ({' '.join(SUFFIXES)}), or one sub-folder "
        f"of {content} per class; it holds {there}"
    )


def _data_files(folder: Path) -> dict[str, list[Path]]:
    """Data files of a folder by their lower-case stem, shards together."""
    found = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix.lower() in SUFFIXES and not is_hidden(path.name):
            found[_stem(path)[0].lower()].append(path)
    return dict(found)


def _stem(path: Path) -> tuple[str, str | None, str | None]:
    """Name, number and total of a shard; both None for a file by itself."""
    name, number, total = _STEM.fullmatch(path.stem).groups()
    return name, number, total


def _folder_of_files(folder: Path, encoding: str) -> Layout:
    splits, others, read = {}, {}, set()
    for name, paths in _data_files(folder).items():
        split = Split(name, tuple(_file(p, encoding) for p in paths))
        if role_of(name, exact=True):
            _refuse_incomplete(name, paths)
            splits[name] = split
            read |= set(paths)
        else:
            others[name] = split
    return Layout(splits, others, _ignored(folder, [p for p in folder.iterdir() if p not in read]))


def _refuse_incomplete(split: str, paths: list[Path]) -> None:
    """Several files of one split must be the shards of one set."""
    numbers, totals = {_stem(p)[1] for p in paths}, {_stem(p)[2] for p in paths}
    if len(totals) > 1 or len(numbers) < len(paths):
        files = listed([p.name for p in paths])
        raise InputError(f"{paths[0].parent}: {files} are all the split {split}; keep one of them")
    total = int(totals.pop() or 1)
    if len(paths) != total:
        raise InputError(
            f"{paths[0].parent}: {len(paths)} of the {total} files of split {split} are there; add the others"
        )


def _folder_of_folders(root: Path, kind: Kind | None, encoding: str) -> Layout | None:
    """Sub-folders of classes, below folders of splits if there are such."""
    folders = [p for p in sorted(root.iterdir()) if p.is_dir() and role_of(p.name, exact=True)]
    found = {p: find_classes(p, kind, encoding) for p in folders}
    if any(found.values()):
        # Beside split folders with classes, a folder of bare files is a split without labels.
        found = {p: source or find_classes(p, kind, encoding, flat=True) for p, source in found.items()}
        sources = {p: source for p, source in found.items() if source}
        splits = {p.name.lower(): Split(p.name.lower(), (source,)) for p, source in sources.items()}
        return Layout(splits, notes=_ignored(root, [p for p in root.iterdir() if p not in sources]))
    if classes := find_classes(root, kind, encoding):
        unused = [p for p in root.iterdir() if p.name not in classes.classes]
        return Layout({"train": Split("train", (classes,))}, notes=_ignored(root, unused))
    return None


def _ignored(folder: Path, paths: list[Path]) -> tuple[str, ...]:
    names = sorted(p.name for p in paths if not is_hidden(p.name))
    return (f"ignored in the folder {folder.resolve().name}: {listed(names)}",) if names else ()
