"""Reader of class folders: one sub-folder per class, whose images or .txt files are the rows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_finetune.data.config import Kind
from hf_finetune.data.image_decoding import SUFFIXES as IMAGE_SUFFIXES
from hf_finetune.data.image_decoding import EncodedImage
from hf_finetune.data.readers.table import Chunk, Column, TextFile, batched
from hf_finetune.data.readers.text_file import codec_of, unreadable

SUFFIXES: dict[Kind, tuple[str, ...]] = {"text": (".txt",), "image": IMAGE_SUFFIXES}


@dataclass(frozen=True)
class ClassFolder(TextFile):
    """Files in the order of their folders, then of their names."""

    kind: Kind = "text"
    files: tuple[str, ...] = ()
    """Paths relative to the folder."""
    labeled: bool = True

    @property
    def classes(self) -> set[str]:
        """Names of the sub-folders with a file."""
        return {_class_of(file) for file in self.files}

    def columns(self) -> dict[str, Column]:
        """Return the column `text` or `image`, and `label` if there are sub-folders."""
        content = Column("string", "text") if self.kind == "text" else Column("image", "images")
        return {self.kind: content} | ({"label": Column("string", "folder names")} if self.labeled else {})

    def chunks(self, columns: Sequence[str], size: int) -> Iterator[Chunk]:
        """Yield rows in order, `size` at a time. Images are referenced by path, not read.

        Raises:
            InputError: a text cannot be decoded; names file and line.
        """
        read = {self.kind: self._content, "label": _class_of}
        for first, files in batched(self.files, size):
            values = {name: [read[name](file) for file in files] for name in columns}
            yield Chunk(values, len(files), self.name, first, files=files)

    def _content(self, file: str) -> str | EncodedImage:
        path = self.path / file
        if self.kind == "image":
            return {"bytes": None, "path": os.path.abspath(path)}
        try:
            return path.read_text(encoding=codec_of(self.encoding))
        except (OSError, UnicodeError) as error:
            raise unreadable(path, self.encoding, error) from None


def _class_of(file: str) -> str:
    return file.partition("/")[0]


def find_classes(root: Path, kind: Kind | None, encoding: str, *, flat: bool = False) -> ClassFolder | None:
    """Find the texts or images in the sub-folders, at any depth, or with `flat` those in the folder itself.

    Args:
        kind: what to look for; None: the kind with more files.

    Returns:
        None if there are none. Hidden files and folders are ignored.
    """
    files: dict[Kind, list[str]] = {"text": [], "image": []}
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [] if flat else [name for name in subfolders if not is_hidden(name)]
        if Path(folder) == root and not flat:
            continue
        below = Path(folder).relative_to(root)
        for name in names:
            for each, suffixes in SUFFIXES.items():
                if name.lower().endswith(suffixes) and not is_hidden(name):
                    files[each].append((below / name).as_posix())
    if kind is None:
        kind = "image" if len(files["image"]) > len(files["text"]) else "text"
    # By folder, then by file: a plain sort of the paths would put "a-b/1" before "a/1".
    ordered = sorted(files[kind], key=lambda file: file.split("/"))
    return ClassFolder(root, encoding, kind, tuple(ordered), labeled=not flat) if ordered else None


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is not data: .git, __pycache__."""
    return name.startswith((".", "__"))
