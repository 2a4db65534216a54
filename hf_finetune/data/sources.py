"""Find the splits of a data source: a file, a folder, or a Hub data set."""

from __future__ import annotations

import functools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hf_finetune.data.columns import FILE_NAME, IMAGES, LABELS
from hf_finetune.data.config import DataLimits, Kind, Role, Source
from hf_finetune.data.memory import is_in_memory, memory_splits
from hf_finetune.data.readers import class_folder, conll_file
from hf_finetune.data.readers.class_folder import check_name, find_classes, is_hidden
from hf_finetune.data.readers.compressed import COMPRESSED, bare_stem, format_of
from hf_finetune.data.readers.conll_file import ConllFile
from hf_finetune.data.readers.csv_file import ROWS_INSPECTED, CsvFile
from hf_finetune.data.readers.excel_file import ExcelFile
from hf_finetune.data.readers.fasta_file import SUFFIXES as FASTA
from hf_finetune.data.readers.fasta_file import FastaFile
from hf_finetune.data.readers.hub_dataset import hub_columns, hub_splits
from hf_finetune.data.readers.json_file import JsonFile
from hf_finetune.data.readers.parquet_file import ParquetFile
from hf_finetune.data.readers.saved_dataset import is_saved_dataset, saved_splits
from hf_finetune.data.readers.several_columns import SeveralColumns, label_columns
from hf_finetune.data.readers.table import Chunk, Column, Reader
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import counted, listed, plural

_TEXT_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".fasta", *conll_file.SUFFIXES)
_SUFFIXES = (*_TEXT_SUFFIXES, ".xlsx", ".parquet")
# Not searched for in folders, where a .txt file is one text.
_NAMED_SUFFIXES = (*_SUFFIXES, ".txt")
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_OTHER_SUFFIXES = (".xls", ".xlsm", ".xlsb", ".ods", ".zip", ".bz2", ".xz")
_FILE_LIKE = (*_NAMED_SUFFIXES, *FASTA, *COMPRESSED, *class_folder.SUFFIXES["image"], *_OTHER_SUFFIXES)
_ROLES: dict[str, Role] = {"train": "train", "test": "test"}
_ROLES |= {name: "validation" for name in ("validation", "valid", "val", "dev")}
# A shard as `datasets` writes it: train-00000-of-00002, with a hash appended in older repositories.
_STEM = re.compile(r"(.+?)(?:-(\d{5,})-of-(\d{5,})(?:-[0-9a-f]+)?)?", re.IGNORECASE)


def role_of(name: str, *, exact: bool = False) -> Role | None:
    """Return the role that a split's name tells; unless `exact`, also by its first part (`test_matched`)."""
    name = name.lower()
    return _ROLES.get(name) or (None if exact else _ROLES.get(re.split(r"[_-]", name)[0]))


@dataclass(frozen=True)
class Split:
    """Rows of one or several readers, in order."""

    name: str
    readers: tuple[Reader, ...]

    @property
    def place(self) -> str:
        """Where the rows are, for messages."""
        return self.readers[0].name

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user on how the files are read."""
        return tuple(note for reader in self.readers for note in reader.notes)

    @property
    def limits(self) -> DataLimits:
        """Limits on the rows."""
        return self.readers[0].limits

    @property
    def skipped(self) -> Counter[str]:
        """Number of files in class folders that are not read, by suffix."""
        return sum((Counter(dict(reader.skipped)) for reader in self.readers), Counter())

    def same_rows(self, other: Split) -> bool:
        """Return whether two splits read the same files, or the same split on the Hub."""
        return [os.path.realpath(r.name) for r in self.readers] == [os.path.realpath(r.name) for r in other.readers]

    @functools.cached_property
    def columns(self) -> dict[str, Column]:
        """Columns of the first reader.

        Raises:
            InputError: it cannot be read, or has no rows.
        """
        return self.readers[0].columns()

    def first_cells(self, columns: Sequence[str]) -> dict[str, list[Any]]:
        """Return the first cells of columns, up to 1,000; nothing if they cannot be read."""
        try:
            return next(self.readers[0].chunks(columns, ROWS_INSPECTED)).columns
        except InputError:
            return {}

    def chunks(self, columns: Sequence[str], size: int = 1024) -> Iterator[Chunk]:
        """Yield rows in order, at most `size` at a time.

        Raises:
            InputError: a file cannot be read, or lacks a column that the first one has.
        """
        for reader in self.readers:
            known = columns if reader is self.readers[0] else reader.columns()
            if missing := [column for column in columns if column not in known]:
                raise InputError(f"{reader.name}: no column {missing[0]!r}, which {self.place} has")
            yield from reader.chunks(columns, size)


@dataclass(frozen=True)
class Layout:
    """The splits of a data source."""

    splits: dict[str, Split]
    others: dict[str, Split] = field(default_factory=dict)
    """Files that are read only when they are named."""
    notes: tuple[str, ...] = ()

    @property
    def by_name(self) -> dict[str, Split]:
        """All splits and other files."""
        return self.splits | self.others


def skipped_files(splits: Sequence[Split]) -> str:
    """Return a note on the files of class folders that are not read, counted by suffix."""
    counts = sum((split.skipped for split in splits), Counter[str]())
    by_suffix = listed([f"{count} {suffix}" for suffix, count in counts.most_common()], most=12)
    verb = plural(counts.total(), "is", "are")
    return f"{counted(counts.total(), 'file')} in the class folders {verb} not read: {by_suffix}"


def locate(source: Source, *, kind: Kind | None, labeled: bool) -> Layout:
    """Find the splits of a data source.

    Args:
        kind: files to look for in class folders; None: the kind with more files.
        labeled: refuse files outside of class folders.

    Raises:
        InputError: there is no such file, folder or Hub data set, or it has no readable data.
    """
    layout = _layout(source, kind, labeled)
    label = source.label
    if not labeled or label is None or (isinstance(label, str) and "*" not in label):
        return layout
    splits, others = (
        {
            name: replace(split, readers=tuple(SeveralColumns(reader, label) for reader in split.readers))
            for name, split in part.items()
        }
        for part in (layout.splits, layout.others)
    )
    return replace(layout, splits=splits, others=others)


def _layout(source: Source, kind: Kind | None, labeled: bool) -> Layout:
    if is_in_memory(source.path):
        return Layout({name: Split(name, (reader,)) for name, reader in memory_splits(source).items()})
    path = local_path(source.path)
    if path is None:
        splits = hub_splits(
            source.path, source.config_name, source.revision, source.limits, yields_faults=source.drop_bad_rows
        )
        return Layout({name: Split(name, (reader,)) for name, reader in splits.items()})
    for flag, value in (("--config-name", source.config_name), ("--revision", source.revision)):
        if value is not None:
            where = "folder" if path.is_dir() else "file"
            raise InputError(f"{flag} {value}: {source.path} is a local {where}; leave the flag out")
    if source.image_root is not None and not Path(source.image_root).expanduser().is_dir():
        raise InputError(f"--data.image-root {source.image_root}: no such folder; name the one of the images")
    if path.is_dir():
        return _folder(path, kind, labeled, source)
    return Layout({"train": Split("train", (_file(path, source),))})


def sniff_kind(source: Source) -> Kind:
    """Tell texts from images by the requested columns, else by names of files and types of columns.

    Raises:
        InputError: there is no such data, or it cannot be read.
    """
    if source.image is not None:
        return "image"
    if source.text is not None or source.text_pair is not None:
        return "text"
    if not is_in_memory(source.path) and local_path(source.path) is None:
        columns = hub_columns(source.path, source.config_name, source.revision)
    else:
        columns = next(iter(locate(source, kind=None, labeled=False).splits.values())).columns
    if any(column.type == "images" for column in columns.values()):
        return "image"
    # Binary columns are images by their name, or if there is no column of texts beside the label; so are paths.
    binary = [name for name, column in columns.items() if column.kind == "image"]
    named = [name for name, column in columns.items() if column.names_images or name.lower() == FILE_NAME]
    texts = [
        name for name, column in columns.items() if column.kind == "string" and not column.numeric and name not in named
    ]
    has_image_name = any(name.lower() in tier for name in binary for tier in IMAGES)
    return "image" if has_image_name or ((binary or named) and len(texts) <= 1) else "text"


def local_path(path: str) -> Path | None:
    """Return the path of a local file or folder, or None for what may be a Hub id.

    Raises:
        InputError: there is no such path, and it cannot be a Hub id.
    """
    check_name(path)
    local = Path(path).expanduser()
    if path and local.exists():
        return local
    suffix = local.suffix.lower()
    file_like = suffix in _FILE_LIKE or ("/" not in path and suffix)
    if file_like or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", path):
        raise InputError(f"{path or 'DATA'}: no such file or folder; expected one, or a Hub id like stanfordnlp/sst2")
    return None


def _format_of(path: Path) -> str:
    """Return the suffix of a file's format, `.fasta` for `.fa` and others, too."""
    suffix = format_of(path)
    return ".fasta" if suffix in FASTA else suffix


def _file(path: Path, source: Source) -> Reader:
    if not path.is_file():
        raise InputError(f"{path}: expected a regular file, not a pipe, socket or device; save the rows to a file")
    encoding = source.encoding or "utf-8"
    options: dict[str, Any] = {
        "limits": source.limits,
        "image_root": source.image_root,
        "yields_faults": source.drop_bad_rows,
    }
    compression, suffix = path.suffix.lower() in COMPRESSED, _format_of(path)
    if source.sheet is not None and suffix != ".xlsx":
        raise InputError(f"--data.sheet {source.sheet}: {path} has no sheets; leave it out")
    if compression and suffix not in (*_TEXT_SUFFIXES, ".txt"):
        raise InputError(f"{path}: of compressed files only {' '.join(_TEXT_SUFFIXES)} are read; decompress it first")
    match suffix:
        case ".txt" if conll_file.is_conll(path, encoding, source.limits):
            return ConllFile(path, encoding, **options)
        case ".csv" | ".tsv" | ".txt":
            return CsvFile(path, encoding, **options)
        case suffix if suffix in conll_file.SUFFIXES:
            return ConllFile(path, encoding, **options)
        case ".json" | ".jsonl":
            return JsonFile(path, encoding, **options)
        case ".fasta":
            return FastaFile(path, encoding, **options)
        case ".xlsx":
            return ExcelFile(path, source.sheet, **options)
        case ".parquet":
            return ParquetFile(path, **options)
    what = f"{path.suffix} files" if path.suffix else "files without a suffix"
    remedy = "; save it as .xlsx" if suffix in (".xls", ".xlsm", ".xlsb", ".ods") else ""
    raise InputError(f"{path}: cannot read {what}; expected one of {' '.join(_NAMED_SUFFIXES)}{remedy}")


def _folder(root: Path, kind: Kind | None, labeled: bool, source: Source) -> Layout:
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
            raise InputError(
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
            reader = _file(path, source)
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
        f"{root}: found no data; expected train, validation and test files ({' '.join(_SUFFIXES)}), or one sub-folder "
        f"of {content} per class; it holds {present}"
    )


def _data_files(folder: Path) -> dict[str, list[Path]]:
    """Group the data files of a folder by their lower-case stem: shards together."""
    files = defaultdict(list)
    for path in sorted(folder.iterdir()):
        compressible = path.suffix.lower() not in COMPRESSED or _format_of(path) in _TEXT_SUFFIXES
        if path.is_file() and compressible and _format_of(path) in _SUFFIXES and not is_hidden(path.name):
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
        (splits if is_split else others)[name] = Split(name, tuple(_file(path, source) for path in paths))
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
        paths = [path for path in sorted(folder.iterdir()) if path.is_file() and _format_of(path) == ".fasta"]
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
