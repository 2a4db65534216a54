"""What a disk may hold after a power loss: what was not fsynced is lost, or in part, by the events of file_events.py.

POSIX promises that a file's bytes are on the disk after fsync of the file, and its name after fsync of the folder; the
rest may be there or not, in any combination."""

from __future__ import annotations

import hashlib
import posixpath
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.file_events import Event

# What is lost: all that was not fsynced; bytes, but no names (the empty file behind a rename); anything, by chance.
Loss = Literal["strict", "bytes", "random"]
LOSSES: tuple[Loss, ...] = ("strict", "bytes", "random")


@dataclass
class File:
    """What the disk may hold of a file: its bytes at the last fsync, then after each change since."""

    versions: list[bytes] = field(default_factory=lambda: [b""])


@dataclass
class Folder:
    """What the disk may hold of a folder: its names at the last fsync, then after each change since."""

    versions: list[dict[str, File | Folder]] = field(default_factory=lambda: [{}])

    def change(self, name: str, node: File | Folder | None) -> None:
        """Set or remove a name."""
        others = {n: v for n, v in self.versions[-1].items() if n != name}
        self.versions.append(others if node is None else others | {name: node})


class Disk:
    """Follows the events of a process.

    Args:
        root: folder below which events are followed; it was there before.
        copies: what each changed file holds after the event.
    """

    def __init__(self, root: Path, copies: Path) -> None:
        self._root, self._copies, self._top = str(root), copies, Folder()

    def apply(self, event: Event) -> None:
        """Change what the disk may hold.

        Raises:
            NotImplementedError: an event whose effect is not modelled.
        """
        if event.result is None or event.result < 0:
            return
        if event.kind in ("map", "unknown", "symlink", "copy"):
            raise NotImplementedError(f"{event.kind}: {event.path}")
        node, folder = self._find(event.path), self._find(posixpath.dirname(event.path))
        name = posixpath.basename(event.path)
        match event.kind:
            case "fsync" if node is not None:
                del node.versions[:-1]
            case "mkdir" if isinstance(folder, Folder):
                folder.change(name, Folder())
            case "unlink" | "rmdir" if isinstance(folder, Folder):
                folder.change(name, None)
            case "rename" | "link" if isinstance(folder, Folder):
                self._move(node, folder, name, event)
            case "create" | "open, truncate" | "write" | "truncate":
                if node is None and isinstance(folder, Folder):
                    node = File()
                    folder.change(name, node)
                if isinstance(node, File):
                    node.versions.append((self._copies / str(event.number)).read_bytes())

    def _move(self, node: File | Folder | None, folder: Folder, name: str, event: Event) -> None:
        assert node is not None, event
        target = self._find(posixpath.dirname(event.second))
        assert isinstance(target, Folder), event
        if target is folder and event.kind == "rename":  # in one step
            others = {n: v for n, v in folder.versions[-1].items() if n != name}
            folder.versions.append(others | {posixpath.basename(event.second): node})
            return
        target.change(posixpath.basename(event.second), node)
        if event.kind == "rename":
            folder.change(name, None)

    def _find(self, path: str) -> File | Folder | None:
        """The file or folder that a path names for the process."""
        relative = posixpath.relpath(posixpath.normpath(path), self._root)
        node: File | Folder | None = self._top
        for name in () if relative == "." else relative.split("/"):
            node = node.versions[-1].get(name) if isinstance(node, Folder) else None
        return node

    def after_loss(self, loss: Loss, seed: str) -> dict[str, bytes | None]:
        """What is left after a power loss now: the content by path, None for a folder."""
        chance = random.Random(seed)
        choose: dict[Loss, tuple[Callable, Callable]] = {
            "strict": (lambda v: v[0], lambda v: v[0]),
            "bytes": (lambda v: v[-1], lambda v: v[0]),
            "random": (chance.choice, chance.choice),
        }
        names, content = choose[loss]
        return dict(_walk(self._top, "", names, content))


def _walk(folder: Folder, path: str, names: Callable, content: Callable) -> Iterable[tuple[str, bytes | None]]:
    for name, node in sorted(names(folder.versions).items()):
        if isinstance(node, Folder):
            yield f"{path}{name}", None
            yield from _walk(node, f"{path}{name}/", names, content)
        else:
            yield f"{path}{name}", content(node.versions)


def write_tree(tree: dict[str, bytes | None], folder: Path) -> None:
    """Write what is left into a new folder."""
    folder.mkdir(parents=True)
    for name, content in tree.items():
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)


def digest(tree: dict[str, bytes | None]) -> str:
    """Names equal trees; what a lock file holds does not matter."""
    total = hashlib.sha256()
    for name, content in sorted(tree.items()):
        known = b"" if content is None or name.endswith(".lock") else content
        total.update(f"{name}\0{content is None}\0{len(known)}\0".encode() + known)
    return total.hexdigest()
