"""Reader of class folders: one sub-folder per class, whose images or .txt files are the rows."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from hf_finetune.data.config import Kind, Source
from hf_finetune.data.image_decoding import SUFFIXES as IMAGE_SUFFIXES
from hf_finetune.data.image_decoding import EncodedImage
from hf_finetune.data.image_paths import ImageFolder, within
from hf_finetune.data.readers.table import DROP, Chunk, Column, Fault, TextFile, batched
from hf_finetune.data.readers.text_file import actual_encoding, codec_of, unreadable
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import printable

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
        read = {self.kind: self._content_or_fault, "label": _class_of}
        for first, files in batched(self.files, size):
            values = {name: [read[name](file) for file in files] for name in columns}
            faults = {i: text for i, text in enumerate(values.get("text", ())) if isinstance(text, Fault)}
            yield Chunk(values, len(files), self.name, first, files=files, images=self._folder, faults=faults)

    @cached_property
    def _folder(self) -> ImageFolder:
        return within(self.path, self.image_root)

    def _content_or_fault(self, file: str) -> str | EncodedImage | Fault:
        try:
            return self._content(file)
        except InputError as error:
            if not self.yields_faults:
                raise
            return Fault("unreadable file", str(error).removeprefix(f"{self.path / file}: "))

    def _content(self, file: str) -> str | EncodedImage:
        path = self.path / file
        if self.kind == "image":
            return {"bytes": None, "path": os.path.abspath(path)}
        try:
            resolved, most = Path(self._folder.resolve(file)), self.limits.text_characters
            # A character takes up to 4 bytes, in every common encoding.
            if (size := resolved.stat().st_size) > 4 * most:
                raise ValueError(
                    f"{size:,} bytes, expected at most {most:,} characters; shorten it, or raise "
                    "--data.limits.text-characters"
                )
            return resolved.read_text(encoding=codec_of(actual_encoding(resolved, self.encoding)))
        except UnicodeError as error:
            raise unreadable(path, self.encoding, error, remedy=f", or {DROP}") from None
        except ValueError as error:
            raise InputError(f"{path}: {error}") from None
        except OSError as error:
            raise unreadable(path, self.encoding, error) from None


def _class_of(file: str) -> str:
    return file.partition("/")[0]


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be read ({error.strerror}); its rows would be missing") from None


def find_classes(root: Path, kind: Kind | None, source: Source, *, flat: bool = False) -> ClassFolder | None:
    """Find the texts or images in the sub-folders, at any depth, or with `flat` those in the folder itself.

    Args:
        kind: what to look for; None: the kind with more files.

    Returns:
        None if there are none. Hidden files and folders are ignored, others are counted.

    Raises:
        InputError: a name is not UTF-8 or has a line break, a folder cannot be read, or it is a link.
    """
    files: list[str] = []
    for folder, subfolders, names in os.walk(root, onerror=_refuse):
        subfolders[:] = [] if flat else [name for name in subfolders if not is_hidden(name)]
        for name in subfolders:
            if (linked := Path(folder, name)).is_symlink():
                raise InputError(f"{linked}: a link to a folder, which is not followed; put the folder in its place")
        if Path(folder) == root and not flat:
            continue
        below = Path(folder).relative_to(root)
        files += [(below / name).as_posix() for name in names if not is_hidden(name)]
    by_kind = {each: [file for file in files if file.lower().endswith(SUFFIXES[each])] for each in SUFFIXES}
    if kind is None:
        kind = "image" if len(by_kind["image"]) > len(by_kind["text"]) else "text"
    if not by_kind[kind]:
        return None
    for file in by_kind[kind]:
        check_name(str(root / file))
    others = set(files).difference(by_kind[kind])
    suffixes = (printable(PurePosixPath(file).suffix.lower()) or "without a suffix" for file in others)
    skipped = Counter(sorted(suffixes))
    return ClassFolder(
        root,
        source.encoding or "utf-8",
        kind,
        # By folder, then by file: a plain sort of the paths would put "a-b/1" before "a/1".
        tuple(sorted(by_kind[kind], key=lambda file: file.split("/"))),
        labeled=not flat,
        skipped=tuple(skipped.most_common()),
        image_root=source.image_root,
        limits=source.limits,
        yields_faults=source.drop_bad_rows,
    )


def check_name(path: str) -> None:
    """Refuse a path that cannot be written down.

    Raises:
        InputError: it is not UTF-8, or has a line break.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InputError(f"{path!a}: this name is not UTF-8; rename the file or folder") from None
    if len(path.splitlines()) > 1 or path.endswith(("\n", "\r")):
        raise InputError(f"{path!r}: this name has a line break; rename the file or folder")


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is not data: .git, __pycache__."""
    return name.startswith((".", "__"))
