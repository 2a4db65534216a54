"""Find the splits of a data source: a file, a folder, or a Hub data set."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from hf_finetune.data.columns import FILE_NAME, IMAGES
from hf_finetune.data.config import Kind, Source
from hf_finetune.data.folders import read_folder
from hf_finetune.data.layout import Layout, Split
from hf_finetune.data.memory import is_in_memory, memory_splits
from hf_finetune.data.readers.choose import FILE_LIKE, file_reader
from hf_finetune.data.readers.class_folder import check_name
from hf_finetune.data.readers.hub_dataset import hub_columns, hub_splits
from hf_finetune.data.readers.several_columns import SeveralColumns
from hf_finetune.errors import InputError


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
        return read_folder(path, kind, labeled, source)
    return Layout({"train": Split("train", (file_reader(path, source),))})


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
    file_like = suffix in FILE_LIKE or ("/" not in path and suffix)
    if file_like or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", path):
        raise InputError(f"{path or 'DATA'}: no such file or folder; expected one, or a Hub id like stanfordnlp/sst2")
    return None
