"""A folder of one sub-folder per class: each picture or .txt file in it is a row."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hf_finetune.data import image
from hf_finetune.data.files import Chunk, Column, codec_of, unreadable

Kind = Literal["text", "image"]
SUFFIXES: dict[Kind, tuple[str, ...]] = {"text": (".txt",), "image": image.SUFFIXES}


@dataclass(frozen=True)
class ClassFolder:
    """Files in the order of their folders, then of their names."""

    root: Path
    kind: Kind
    files: tuple[str, ...]
    """Below the root."""
    labelled: bool = True
    encoding: str = "utf-8"

    @property
    def name(self) -> str:
        """The folder as the user named it."""
        return str(self.root)

    @property
    def classes(self) -> set[str]:
        """Names of the sub-folders that hold a file."""
        return {_class_of(f) for f in self.files}

    def columns(self) -> dict[str, Column]:
        """The content, called as its kind, and `label` if there are sub-folders."""
        content = Column("string", "text") if self.kind == "text" else Column("image", "pictures")
        return {self.kind: content} | ({"label": Column("string", "folder names")} if self.labelled else {})

    def chunks(self, wanted: Sequence[str], size: int) -> Iterator[Chunk]:
        """Rows in order, `size` at a time. Pictures are named, not read.

        Raises:
            InputError: for a text that does not decode, naming file and line.
        """
        for first in range(0, len(self.files), size):
            files = self.files[first : first + size]
            columns: dict[str, list[Any]] = {"label": [_class_of(f) for f in files]}
            if self.kind in wanted:
                columns[self.kind] = [self._content(f) for f in files]
            yield Chunk({c: columns[c] for c in wanted}, len(files), functools.partial(_where, self.root, files))

    def _content(self, file: str) -> str | dict[str, Any]:
        path = self.root / file
        if self.kind == "image":
            return {"bytes": None, "path": os.path.abspath(path)}
        try:
            return path.read_text(encoding=codec_of(self.encoding))
        except (OSError, UnicodeError) as error:
            raise unreadable(path, self.encoding, error) from None


def _class_of(file: str) -> str:
    return file.partition("/")[0]


def _where(root: Path, files: Sequence[str], i: int) -> str:
    return str(root / files[i])


def find_classes(root: Path, kind: Kind | None, encoding: str, *, flat: bool = False) -> ClassFolder | None:
    """The texts or pictures in the sub-folders, however deep, or with `flat` those in the folder itself.

    Args:
        kind: what to look for; None: what there is more of.

    Returns:
        None when there are none. Hidden files and folders, and those like __pycache__, do not count.
    """
    files: dict[Kind, list[str]] = {"text": [], "image": []}
    for folder, inner, names in os.walk(root):
        inner[:] = [] if flat else [n for n in inner if not is_hidden(n)]
        if Path(folder) == root and not flat:
            continue
        below = Path(folder).relative_to(root)
        for name in names:
            for k, suffixes in SUFFIXES.items():
                if name.lower().endswith(suffixes) and not is_hidden(name):
                    files[k].append((below / name).as_posix())
    kind = kind or max(files, key=lambda k: len(files[k]))
    # By folder, then by file: a plain sort of the paths would put "a-b/1" before "a/1".
    ordered = sorted(files[kind], key=lambda f: f.split("/"))
    return ClassFolder(root, kind, tuple(ordered), labelled=not flat, encoding=encoding) if ordered else None


def is_hidden(name: str) -> bool:
    """Whether a file or folder is for programs: .git, __pycache__."""
    return name.startswith((".", "__"))
