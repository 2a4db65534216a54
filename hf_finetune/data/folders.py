"""Find the splits of a folder: files named like splits, described images, a folder or file for each class."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from hf_finetune.data.columns import FILE_NAME, LABELS
from hf_finetune.data.config import Kind, Source
from hf_finetune.data.layout import Layout, Split, role_of
from hf_finetune.data.readers.choose import SUFFIXES, TEXT_SUFFIXES, file_format, file_reader
from hf_finetune.data.readers.class_folder import find_classes, is_hidden
from hf_finetune.data.readers.compressed import COMPRESSED, bare_stem
from hf_finetune.data.readers.fasta_file import FastaFile
from hf_finetune.data.readers.saved_dataset import is_saved_dataset, saved_splits
from hf_finetune.data.readers.several_columns import label_columns
from hf_finetune.data.readers.table import Reader
from hf_finetune.errors import InputError, NoLabels
from hf_finetune.utils.messages import listed

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
# A shard as `datasets` writes it: train-00000-of-00002, with a hash appended in older repositories.
_STEM = re.compile(r"(.+?)(?:-(\d{5,})-of-(\d{5,})(?:-[0-9a-f]+)?)?", re.IGNORECASE)


def read_folder(root: Path, kind: Kind | None, labeled: bool, source: Source) -> Layout:
    """Find the splits of a folder.

    Args:
        kind, labeled: see `sources.locate`.

    Raises:
        InputError: it has no readable data, or files of which it is not clear what they are.
    """
    if is_saved_dataset(root):
        return Layout({name: Split(name, (reader,)) for name, reader in saved_splits(root, source).items()})
    for folder in (root, root / "data"):
        if folder.is_dir() and any(role_of(stem, exact=True) for stem in _data_files(folder)):
            return _split_files(folder, source)
    if kind != "text" and (described := _described_images(root, labeled, source)):
        return described
    if kind != "image" and (classes := _class_files(root, source)):
        return classes
    if classes := _class_folders(root, kind, source):
        return classes
    if flat := find_classes(root, kind, source, flat=True):
        if labeled:
            raise NoLabels(
                f"{root}: its files have no class; expected one sub-folder per class, holding the class's files"
            )
        return Layout({"train": Split("train", (flat,))})
    raise _no_data(root, kind, source)


def _described_images(root: Path, labeled: bool, source: Source) -> Layout | None:
    """Read the images that a metadata file describes, as `datasets` has it, or one in each split folder."""
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and role_of(path.name, exact=True)]
    readers = {path: reader for path in folders if (reader := _metadata(path, labeled, source))}
    if readers:
        splits = {path.name.lower(): Split(path.name.lower(), (reader,)) for path, reader in readers.items()}
        return Layout(splits, notes=_ignored(root, [path for path in root.iterdir() if path not in readers]))
    if (reader := _metadata(root, labeled, source)) is None:
        return None
    if folders:
        names = listed([path.name for path in folders])
        raise InputError(f"{reader.name}: one file for the splits {names}; put one into each of these folders")
    return Layout({"train": Split("train", (reader,))})


def _metadata(folder: Path, labeled: bool, source: Source) -> Reader | None:
    """Return the reader of a folder's metadata file, if that names the images, and their classes if they are needed.

    Where it has no classes, the folders may tell them.
    """
    for name in METADATA:
        if (path := folder / name).is_file():
            reader = file_reader(path, source)
            if FILE_NAME not in (columns := reader.columns()):
                continue
            others = [column for column in columns if column != FILE_NAME]
            known = {each for tier in LABELS for each in tier}
            if (
                source.label in others
                or label_columns(source.label, others)
                or len(others) == 1
                or known.intersection(map(str.lower, others))
            ):
                return reader
            if not labeled and find_classes(folder, "image", source) is None:
                return reader
    return None


def _no_data(root: Path, kind: Kind | None, source: Source) -> InputError:
    if other := _class_folders(root, None, source):
        is_text = "text" in next(iter(other.splits.values())).columns
        holds, expected = ("texts", "images") if is_text else ("images", "texts")
        return InputError(
            f"{root}: the folder holds {holds}, expected {expected}; choose a checkpoint for {holds}, or other data"
        )
    if loose := _data_files(root):
        file = next(iter(loose.values()))[0]
        return InputError(
            f"{root}: no file in it is called train, validation or test; name a file instead, like {file}"
        )
    content = {"image": "images", "text": ".txt files", None: "images or .txt files"}[kind]
    present = listed(sorted(path.name for path in root.iterdir())) or "nothing"
    return InputError(
        f"{root}: found no data; expected train, validation and test files ({' '.join(SUFFIXES)}), or one sub-folder "
        f"of {content} per class; it holds {present}"
    )


def _data_files(folder: Path) -> dict[str, list[Path]]:
    """Group the data files of a folder by their lower-case stem: shards together."""
    files = defaultdict(list)
    for path in sorted(folder.iterdir()):
        compressible = path.suffix.lower() not in COMPRESSED or file_format(path) in TEXT_SUFFIXES
        if path.is_file() and compressible and file_format(path) in SUFFIXES and not is_hidden(path.name):
            files[_stem(path)[0].lower()].append(path)
    return dict(files)


def _stem(path: Path) -> tuple[str, str | None, str | None]:
    """Return the name, number and total of a shard; number and total are None for a single file."""
    match = _STEM.fullmatch(bare_stem(path))
    assert match is not None, "any name matches"
    return match[1], match[2], match[3]


def _split_files(folder: Path, source: Source) -> Layout:
    """Read the files that are named like splits."""
    splits: dict[str, Split] = {}
    others: dict[str, Split] = {}
    read: set[Path] = set()
    for name, paths in _data_files(folder).items():
        is_split = role_of(name, exact=True) is not None
        if is_split:
            _refuse_incomplete(name, paths)
            read |= set(paths)
        (splits if is_split else others)[name] = Split(name, tuple(file_reader(path, source) for path in paths))
    return Layout(splits, others, _ignored(folder, [path for path in folder.iterdir() if path not in read]))


def _refuse_incomplete(split: str, paths: list[Path]) -> None:
    """Refuse several files of one split that are not the complete shards of one set."""
    numbers, totals = {_stem(path)[1] for path in paths}, {_stem(path)[2] for path in paths}
    folder, total = paths[0].parent, int(next(iter(totals)) or 1)
    if len(totals) > 1 or len(numbers) < len(paths):
        files = listed([path.name for path in paths])
        raise InputError(f"{folder}: several files for the split {split}: {files}; keep one of them")
    if len(paths) != total:
        raise InputError(f"{folder}: {len(paths)} of the {total} files of split {split} are there; add the others")


def _class_folders(root: Path, kind: Kind | None, source: Source) -> Layout | None:
    """Read class folders, within split folders if there are any."""
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and role_of(path.name, exact=True)]
    classes = {path: find_classes(path, kind, source) for path in folders}
    if any(classes.values()):
        # Next to split folders with classes, a split folder that only has files is an unlabeled split.
        readers = {path: each or find_classes(path, kind, source, flat=True) for path, each in classes.items()}
        splits = {path.name.lower(): Split(path.name.lower(), (each,)) for path, each in readers.items() if each}
        return Layout(splits, notes=_ignored(root, [path for path in root.iterdir() if not readers.get(path)]))
    if train := find_classes(root, kind, source):
        unused = [path for path in root.iterdir() if path.name not in train.classes]
        return Layout({"train": Split("train", (train,))}, notes=_ignored(root, unused))
    return None


def _class_files(root: Path, source: Source) -> Layout | None:
    """Read FASTA files, one for each class by its name, within split folders if there are any."""

    def split(name: str, folder: Path) -> Split | None:
        paths = [path for path in sorted(folder.iterdir()) if path.is_file() and file_format(path) == ".fasta"]
        options: dict[str, Any] = {"limits": source.limits, "yields_faults": source.drop_bad_rows}
        encoding = source.encoding or "utf-8"
        readers = tuple(FastaFile(path, encoding, label=bare_stem(path), **options) for path in paths)
        return Split(name, readers) if len(readers) > 1 else None

    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and role_of(path.name, exact=True)]
    splits = {path.name.lower(): split(path.name.lower(), path) for path in folders}
    if not any(splits.values()):
        splits = {"train": split("train", root)}
    read = {name: each for name, each in splits.items() if each}
    return Layout(read) if read else None


def _ignored(folder: Path, paths: list[Path]) -> tuple[str, ...]:
    names = sorted(path.name for path in paths if not is_hidden(path.name))
    return (f"ignored in the folder {folder.resolve().name}: {listed(names)}",) if names else ()
