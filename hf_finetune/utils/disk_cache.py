"""What a run computes once and later runs find again: folders of files that are whole or not there, checked when found.

A store lies in `environment.cache_folder()/KIND/KEY/`; its manifest names each file's size and SHA-256. All kinds share
one budget, `batching.cache_gb`; the stores used least recently make room for a new one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from hf_finetune.utils import environment, hashing
from hf_finetune.utils.files import write_json

logger = logging.getLogger("hf_finetune.run")

T = TypeVar("T")
MANIFEST, GROWING = "manifest.json", ".growing-"
# A build that has not written for so long was killed.
ABANDONED_AFTER_SECONDS = 3600
# Left free on the disk, for the run itself.
SPARE_BYTES = 1_000_000_000

# Stores that this process goes on reading. Removed, they would be gone for the next run, and their place on the disk
# taken until this one ends.
_HELD: set[Path] = set()


class NoStore(Exception):
    """Why a store cannot be built, in words; the run goes on without it."""


def folder_of(kind: str, parts: Mapping[str, Any]) -> Path:
    """Where the store is whose content depends on `parts`, as JSON has them."""
    return environment.cache_folder() / kind / hashing.of_json(parts)[:32]


def find(folder: Path, read: Callable[[Path, dict[str, Any]], T]) -> T | None:
    """What `read` makes of a store's folder and manifest, and note that it was used.

    None when there is none, or a damaged one: that is said, and it is removed. `read` may find damage, too.
    """
    if not folder.exists():
        return None
    try:
        about = manifest(folder)
        for name, expected in about["files"].items():
            file = folder / name
            if file.stat().st_size != expected["bytes"] or hashing.of_files(file) != expected["sha256"]:
                raise ValueError(f"{name} is not what its manifest says")
        found = read(folder, about)
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s: damaged (%s): it is built anew", folder, " ".join(str(error).split()))
        shutil.rmtree(folder, ignore_errors=True)
        return None
    with suppress(OSError):  # a folder that others may only read
        os.utime(folder / MANIFEST)
    return found


def manifest(folder: Path) -> dict[str, Any]:
    """What a store's manifest says, its files unchecked: for one that `find` has checked in another process.

    Raises:
        OSError, ValueError: it is gone, or damaged.
    """
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))


def hold(folder: Path) -> None:
    """Keep a store until this process ends, whatever comes to need its room."""
    _HELD.add(folder)


class Build:
    """The files of a store that is being written, each hashed on the way."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, tuple[Any, Any]] = {}
        self._open = ExitStack()

    def append(self, name: str, block: Any) -> None:
        """Add bytes, or anything contiguous in memory, at the end of a file."""
        if name not in self._files:
            self._files[name] = self._open.enter_context((self._folder / name).open("wb")), hashlib.sha256()
        file, digest = self._files[name]
        digest.update(block)
        file.write(block)

    def _seal(self, about: Mapping[str, Any]) -> None:
        files = {}
        for name, (file, digest) in self._files.items():
            file.flush()
            os.fsync(file.fileno())
            files[name] = {"bytes": file.tell(), "sha256": digest.hexdigest()}
        write_json(self._folder / MANIFEST, {**about, "files": files})


@contextmanager
def building(folder: Path, *, needed: int, budget_gb: float, about: Mapping[str, Any]) -> Iterator[Build]:
    """Write a store beside its place, its manifest last, and move it there when the block ends without an error.

    Args:
        folder: from `folder_of`; `find` has not found it.
        needed: bytes of the store.
        budget_gb: gigabytes (10^9 bytes) that all stores may take together.
        about: what the manifest says beside the files.

    Raises:
        NoStore: there is no room for it, or the disk is full, or not ours to write. Nothing is left behind.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _make_room(folder.parent.parent, needed, int(budget_gb * 1e9))
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".partial-"))
        build = Build(partial)
        try:
            with build._open:
                yield build
                build._seal(about)
            try:
                os.replace(partial, folder)
            except OSError:
                # Another process was faster: its store is as good as this one.
                if not (folder / MANIFEST).is_file():
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise NoStore(f"{folder.parent} cannot be written ({error.strerror or error})") from error


@contextmanager
def growing(folder: Path, *, needed: int, budget_gb: float, about: Mapping[str, Any]) -> Iterator[Path]:
    """Fill a store file by file, each written whole (`utils.files.write_bytes`), so that what was written is never
    lost.

    The block fills the folder that it is given, in which it finds the files of an earlier one that was killed or
    failed. When it ends without an error, the manifest is written and the folder moved to its place.

    Args:
        folder, needed, budget_gb, about: see `building`.

    Raises:
        NoStore: as `building`; nothing is left behind then.
    """
    unfinished = folder.with_name(f"{GROWING}{folder.name}")
    try:
        unfinished.mkdir(parents=True, exist_ok=True)
        os.utime(unfinished)
        _make_room(folder.parent.parent, needed, int(budget_gb * 1e9))
        yield unfinished
        # Else another process was faster: its store is as good as this one.
        if not (folder / MANIFEST).is_file():
            for half_written in (*unfinished.glob(".*"), unfinished / MANIFEST):
                half_written.unlink(missing_ok=True)
            files = {
                file.name: {"bytes": file.stat().st_size, "sha256": hashing.of_files(file)}
                for file in sorted(unfinished.iterdir())
            }
            write_json(unfinished / MANIFEST, {**about, "files": files})
            os.replace(unfinished, folder)
        shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise NoStore(f"{folder.parent} cannot be written ({error.strerror or error})") from error
    except NoStore:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _size(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.iterdir())


def _newest(folder: Path) -> float:
    """When something was last written."""
    return max((f.stat().st_mtime for f in [folder, *folder.iterdir()]), default=0.0)


def _gb(size: int) -> str:
    """Bytes in gigabytes (10^9 bytes), to two places behind the point or, of a small store, two digits."""
    places = max(2, 1 - math.floor(math.log10(size / 1e9))) if size else 2
    return f"{size / 1e9:.{places}f}"


def _make_room(root: Path, needed: int, budget: int) -> None:
    """Remove the stores used least recently until `needed` bytes more fit into the budget and on the disk.

    Raises:
        NoStore: they cannot be made to fit; nothing is removed then.
    """
    if needed > budget:
        raise NoStore(f"{_gb(needed)} GB are needed, batching.cache_gb allows {_gb(budget)}")
    _remove_abandoned(root)
    used = {path.parent: path.stat().st_mtime for path in root.glob(f"*/*/{MANIFEST}")}
    # What a killed run has left waits for the next one, and takes its place among the others.
    used |= {path: _newest(path) for path in root.glob(f"*/{GROWING}*") if _is_abandoned(path)}
    sizes = {store: _size(store) for store in used}
    idle = sorted(used.keys() - _HELD, key=used.__getitem__)
    gain, free = sum(sizes[store] for store in idle), shutil.disk_usage(root).free
    if needed + SPARE_BYTES > free + gain:
        raise NoStore(f"{_gb(needed)} GB are needed and 1 GB to spare, {root} has {_gb(free)} GB free")
    taken = sum(sizes.values())
    if taken - gain + needed > budget:
        raise NoStore(
            f"{_gb(needed)} GB are needed beside what is in use, batching.cache_gb allows {_gb(budget)} in all"
        )
    for store in idle:
        if taken + needed <= budget and needed + SPARE_BYTES <= free:
            break
        logger.info("%s: removed, the store used least recently, to make room", store)
        shutil.rmtree(store, ignore_errors=True)
        taken, free = taken - sizes[store], free + sizes[store]


def _remove_abandoned(root: Path) -> None:
    for partial in root.glob("*/.partial-*"):
        if _is_abandoned(partial):
            shutil.rmtree(partial, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    return time.time() - _newest(folder) > ABANDONED_AFTER_SECONDS
