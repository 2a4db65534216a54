"""Disk cache of what a run computes once and later runs reuse: folders that are complete or absent, verified when read.

An entry lies in `environment.cache_folder()/KIND/KEY/`; its manifest records the size and SHA-256 of each file, and its
own. All kinds share one budget, `batching.cache_gb`; a new entry evicts the least recently used ones.
"""

import hashlib
import json
import logging
import math
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from hf_finetune.utils import environment, hashing
from hf_finetune.utils.files import write_json

logger = logging.getLogger("hf_finetune.run")

T = TypeVar("T")
MANIFEST, UNFINISHED = "manifest.json", ".growing-"
# Raise it when the manifest changes: entries of other formats are not found, and evicted in time.
FORMAT = 2
# Seconds without a write after which the process that builds an entry must have been killed.
ABANDONED_AFTER_SECONDS = 3600
# Disk space left for the run itself.
SPARE_BYTES = 1_000_000_000

# Entries that this process keeps reading. Eviction would take them from the next run and free no space before this
# process ends.
_PINNED: set[Path] = set()


class CacheUnavailable(Exception):
    """An entry cannot be cached, for the reason in the message; the run continues without it."""


def entry_folder(kind: str, key: Mapping[str, Any]) -> Path:
    """Return the folder of the entry whose content depends on `key`, which holds plain JSON values."""
    return environment.cache_folder() / kind / hashing.of_json({"format_of_entry": FORMAT, **key})[:32]


def find(folder: Path, read: Callable[[Path, dict[str, Any]], T]) -> T | None:
    """Verify an entry, mark it as used, and return what `read` makes of its folder and manifest.

    Return None if it is absent. A damaged entry, also by the judgement of `read`, is removed with a warning.
    """
    if not folder.exists():
        return None
    try:
        about = manifest(folder)
        for name, expected in about["files"].items():
            file = folder / name
            if file.stat().st_size != expected["bytes"] or hashing.of_files(file) != expected["sha256"]:
                raise ValueError(f"{name} is not what its manifest says")
        content = read(folder, about)
    # Whatever the reader of an entry meets in a damaged one.
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        logger.warning("%s: damaged (%s); it is built again", folder, " ".join(str(error).split()))
        shutil.rmtree(folder, ignore_errors=True)
        return None
    with suppress(OSError):  # a folder that is read-only for this user
        os.utime(folder / MANIFEST)
    return content


def manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of an entry that `find` has verified, perhaps in another process.

    Raises:
        OSError, ValueError: it is absent or damaged.
    """
    return hashing.unsealed(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))


def pin(folder: Path) -> None:
    """Exempt an entry from eviction until this process ends."""
    _PINNED.add(folder)


class EntryWriter:
    """Writes the files of a new entry and hashes them on the way."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, tuple[Any, Any]] = {}
        self._open = ExitStack()

    def append(self, name: str, block: Any) -> None:
        """Append bytes, or anything contiguous in memory, to a file."""
        if name not in self._files:
            self._files[name] = self._open.enter_context((self._folder / name).open("wb")), hashlib.sha256()
        file, digest = self._files[name]
        digest.update(block)
        file.write(block)

    def _write_manifest(self, about: Mapping[str, Any]) -> None:
        files = {}
        for name, (file, digest) in self._files.items():
            file.flush()
            os.fsync(file.fileno())
            files[name] = {"bytes": file.tell(), "sha256": digest.hexdigest()}
        write_json(self._folder / MANIFEST, hashing.sealed({**about, "files": files}))


@contextmanager
def building(folder: Path, *, needed: int, budget_gb: float, about: Mapping[str, Any]) -> Iterator[EntryWriter]:
    """Write a new entry to a temporary folder, and move it to its place when the block succeeds.

    Args:
        folder: from `entry_folder`.
        needed: bytes of the entry.
        budget_gb: gigabytes (10^9 bytes) of all entries together.
        about: fields of the manifest beside the files.

    Raises:
        CacheUnavailable: there is no room, or the folder cannot be written. Nothing is left behind.
    """
    with _unavailable_when_unwritable(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _make_room(folder.parent.parent, needed, budget_gb)
        temporary = folder.parent / f".partial-{secrets.token_hex(4)}"
        temporary.mkdir()
        writer = EntryWriter(temporary)
        try:
            with writer._open:
                yield writer
                writer._write_manifest(about)
            try:
                os.replace(temporary, folder)
            except OSError:
                if not (folder / MANIFEST).is_file():  # else another process wrote the same entry first
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def building_resumably(folder: Path, *, needed: int, budget_gb: float, about: Mapping[str, Any]) -> Iterator[Path]:
    """Build a new entry file by file, so that a run that is killed loses only the file it was writing.

    The block fills the yielded folder by atomic writes (`utils.files.write_bytes`), and finds there the files of an
    earlier block that was killed or failed. When the block succeeds, the entry gets its manifest and its place.

    Args:
        folder, needed, budget_gb, about: see `building`.

    Raises:
        CacheUnavailable: see `building`.
    """
    unfinished = folder.with_name(f"{UNFINISHED}{folder.name}")
    try:
        with _unavailable_when_unwritable(folder.parent):
            unfinished.mkdir(parents=True, exist_ok=True)
            os.utime(unfinished)
            _make_room(folder.parent.parent, needed, budget_gb)
            yield unfinished
            if not (folder / MANIFEST).is_file():  # else another process wrote the same entry first
                for half_written in (*unfinished.glob(".*"), unfinished / MANIFEST):
                    half_written.unlink(missing_ok=True)
                files = {
                    file.name: {"bytes": file.stat().st_size, "sha256": hashing.of_files(file)}
                    for file in sorted(unfinished.iterdir())
                }
                write_json(unfinished / MANIFEST, hashing.sealed({**about, "files": files}))
                os.replace(unfinished, folder)
            shutil.rmtree(unfinished, ignore_errors=True)
    except CacheUnavailable:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


@contextmanager
def _unavailable_when_unwritable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CacheUnavailable(f"{folder} cannot be written ({error.strerror or error})") from error


def _make_room(root: Path, needed: int, budget_gb: float) -> None:
    """Evict the least recently used entries until `needed` bytes fit into the budget and on the disk.

    Raises:
        CacheUnavailable: they cannot fit; nothing is evicted.
    """
    budget = int(budget_gb * 1e9)
    if needed > budget:
        raise CacheUnavailable(f"{_gb(needed)} GB are needed, batching.cache_gb allows {_gb(budget)}")
    for temporary in filter(_is_abandoned, root.glob("*/.partial-*")):
        shutil.rmtree(temporary, ignore_errors=True)
    last_used = {path.parent: path.stat().st_mtime for path in root.glob(f"*/*/{MANIFEST}")}
    # Unfinished entries of killed runs wait to be resumed, and may be evicted like the others.
    last_used |= {path: _last_write(path) for path in root.glob(f"*/{UNFINISHED}*") if _is_abandoned(path)}
    sizes = {entry: sum(file.stat().st_size for file in entry.iterdir()) for entry in last_used}
    evictable = sorted(last_used.keys() - _PINNED, key=last_used.__getitem__)
    gain, free = sum(sizes[entry] for entry in evictable), shutil.disk_usage(root).free
    if needed + SPARE_BYTES > free + gain:
        raise CacheUnavailable(f"{_gb(needed)} GB are needed and 1 GB to spare, {root} has {_gb(free)} GB free")
    used = sum(sizes.values())
    if used - gain + needed > budget:
        raise CacheUnavailable(
            f"{_gb(needed)} GB are needed beside what is in use, batching.cache_gb allows {_gb(budget)} in all"
        )
    for entry in evictable:
        if used + needed <= budget and needed + SPARE_BYTES <= free:
            break
        logger.info("%s: removed as the least recently used cache entry", entry)
        shutil.rmtree(entry, ignore_errors=True)
        used, free = used - sizes[entry], free + sizes[entry]


def _gb(size: int) -> str:
    """Return bytes in gigabytes (10^9 bytes) with two decimals, or two digits if they are fewer."""
    places = max(2, 1 - math.floor(math.log10(size / 1e9))) if size else 2
    return f"{size / 1e9:.{places}f}"


def _last_write(folder: Path) -> float:
    return max((f.stat().st_mtime for f in [folder, *folder.iterdir()]), default=0.0)


def _is_abandoned(folder: Path) -> bool:
    return time.time() - _last_write(folder) > ABANDONED_AFTER_SECONDS
