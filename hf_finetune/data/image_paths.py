"""Paths of images inside data: they may only lead to regular files of the folders that the user chose."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath


@dataclass(frozen=True)
class ImageFolder:
    """The folder of the images of a source."""

    folder: Path
    """Images lie below it; relative paths start there."""
    others: tuple[Path, ...] = ()
    """Further folders to which links may lead."""
    absolute: bool = False
    """Accept absolute paths, too: those that this package or `datasets` made."""
    remedy: str = "name the folder to which the paths are relative by --data.image-root"

    def resolve(self, path: str) -> str:
        """Return the absolute path of an image.

        Raises:
            ValueError: it leads out of the folder, or to no regular file.
        """
        shown = repr(path if len(path) <= 80 else f"{path[:80]}...")
        pure = PurePath(path)
        if ".." in pure.parts or (pure.is_absolute() and not self.absolute):
            raise ValueError(f"the path {shown} leads out of {self.folder}: expected one below it; {self.remedy}")
        try:
            file = os.path.realpath(self.folder / pure)
            mode = os.stat(file).st_mode
        except (OSError, ValueError):
            raise ValueError(f"{shown}: no such file in {self.folder}; {self.remedy}") from None
        if not any(Path(file).is_relative_to(folder) for folder in self._allowed):
            raise ValueError(f"{shown} is a link that leads out of {self.folder}; {self.remedy}")
        if not stat.S_ISREG(mode):
            raise ValueError(f"{shown} is no regular file")
        return os.path.abspath(self.folder / pure)

    @cached_property
    def _allowed(self) -> list[str]:
        return [os.path.realpath(folder) for folder in (self.folder, *self.others)]


def beside(table: Path, image_root: str | None) -> ImageFolder:
    """Return the folder of the images that a table names: `image_root`, else that of the table."""
    return ImageFolder(table.parent if image_root is None else Path(image_root).expanduser())


def within(root: Path, image_root: str | None) -> ImageFolder:
    """Return the folder of class folders, whose links may also lead to `image_root`.

    The folder of a snapshot in the Hub's cache consists of links to its neighbor `blobs`.
    """
    others = [] if image_root is None else [Path(image_root).expanduser()]
    snapshots = [parent for parent in root.absolute().parents if parent.name == "snapshots"]
    others += [parent.with_name("blobs") for parent in snapshots]
    remedy = "replace the link by the file, or name the folder of the images by --data.image-root"
    return ImageFolder(root, tuple(others), absolute=True, remedy=remedy)


def hub_folder(name: str) -> ImageFolder:
    """Return the folders of the images that `datasets` downloads for a Hub data set."""
    from datasets import config
    from huggingface_hub.constants import HF_HUB_CACHE

    repository = Path(HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}"
    others = (Path(config.DOWNLOADED_DATASETS_PATH), Path(config.EXTRACTED_DATASETS_PATH))
    return ImageFolder(repository, others, absolute=True, remedy="load a revision whose rows hold the images")


def open_regular(path: str) -> int:
    """Open a file for reading, and return its descriptor. A pipe does not block.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(f"{path} is no regular file")
