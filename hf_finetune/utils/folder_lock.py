"""One owner of a folder: a lock file that the process which writes there holds, and that names it.

The file is locked by `flock`, which the system releases when the process dies. Its content is for messages, and decides
where the file system has no such locks.
"""

import errno
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Self

import psutil

from hf_finetune.errors import InputError

logger = logging.getLogger("hf_finetune.run")
FILE = ".lock"
# What a file system without such locks answers, as Lustre mounted without the option flock.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
# The start of a process is computed from that of the system, which moves when the clock is set.
CLOCK_SECONDS = 2.0
# Open lock files of this process.
_HANDLES: set[int] = set()


@dataclass(frozen=True)
class Owner:
    """The process that owns a folder."""

    pid: int
    host: str
    process_started: float
    """Seconds since 1970; with `pid` and `host` it names one process."""
    since: str
    """When it took the folder."""

    @classmethod
    def current(cls) -> Self:
        """Return this process."""
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return cls(os.getpid(), socket.gethostname(), psutil.Process().create_time(), now)

    @classmethod
    def read(cls, file: Path) -> Self | None:
        """Return the process that a lock file names; None: there is no file, or it is not written yet."""
        try:
            return cls(**json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    @property
    def is_on_this_host(self) -> bool:
        """Whether the process can be looked up."""
        return self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool:
        """Whether the process still runs; False on another host, where nobody can look."""
        if not self.is_on_this_host:
            return False
        try:
            process = psutil.Process(self.pid)
            # Another process may have got the number since.
            is_same = abs(process.create_time() - self.process_started) < CLOCK_SECONDS
            return is_same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def refuse_owned(folder: Path) -> None:
    """Refuse a folder that a living process of this host owns. Nothing is written.

    Raises:
        InputError: naming the process, its host and since when it owns the folder.
    """
    owner = Owner.read(folder / FILE)
    if owner is not None and owner.is_alive:
        raise _refusal(folder, owner)


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Own an existing folder in the block. The lock of a process that has died is taken over, with a warning.

    Raises:
        InputError: another process owns it, which is named; or nothing can be written there.
    """
    file, owner = folder / FILE, Owner.current()
    try:
        handle = _acquire(file)
        os.ftruncate(handle, 0)
        os.write(handle, json.dumps(asdict(owner)).encode())
        os.fsync(handle)
    except OSError as error:
        raise InputError(f"{folder}: nothing can be written there ({error.strerror})") from None
    try:
        yield
    finally:
        _release(file, handle, owner)


def _acquire(file: Path) -> int:
    """Return the open lock file, locked where the file system has locks.

    Raises:
        InputError: see `owned`.
    """
    while True:
        is_new = True
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            is_new = False
            try:
                handle = os.open(file, os.O_RDWR)
            except FileNotFoundError:  # its owner has just ended
                if file.is_symlink():
                    raise
                continue
        try:
            is_locked = _lock(handle)
            owner = Owner.read(file)
            if is_locked is False or not (is_new or _may_take_over(owner, is_locked=bool(is_locked))):
                raise _refusal(file.parent, owner)
            # The owner before removes the file: who opened it until then holds the lock of a file that is gone.
            if is_locked is None or _is_same(handle, file):
                if owner is not None and not is_new:
                    logger.warning(
                        "%s: %s, which owned it since %s, is gone: taken over", file.parent, owner, owner.since
                    )
                _leave_to_parent()
                _HANDLES.add(handle)
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock(handle: int) -> bool | None:
    """Return whether the file could be locked; None: the file system has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return None
    return True


def _may_take_over(owner: Owner | None, *, is_locked: bool) -> bool:
    """Return whether the owner named in an existing lock file is certainly gone.

    Args:
        owner: None: it died, or is about to write its name.
        is_locked: whether this process has just got the lock, which only the death of its owner releases.
    """
    if owner is None or not owner.is_on_this_host:
        return is_locked
    return not owner.is_alive


def _is_same(handle: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False


def _refusal(folder: Path, owner: Owner | None) -> InputError:
    if owner is None:
        return InputError(f"{folder}: another process is writing there; wait until it has ended")
    remedy = "wait until it has ended, or stop it"
    if not owner.is_alive:
        # Of another host; or a child of the dead process, such as a data loader's worker, still holds its lock.
        remedy += f"; if neither it nor a child of it is left, delete {folder / FILE}"
    return InputError(f"{folder}: {owner} has been writing there since {owner.since}; {remedy}")


def _release(file: Path, handle: int, owner: Owner) -> None:
    if os.getpid() != owner.pid:  # a forked child, whose parent goes on
        return
    # Before the lock is released: who opens the file from now on makes a new one. It may be another's by now, if
    # somebody deleted ours.
    if Owner.read(file) == owner:
        with suppress(OSError):
            file.unlink()
    _HANDLES.discard(handle)
    os.close(handle)


@cache
def _leave_to_parent() -> None:
    os.register_at_fork(after_in_child=_close_in_child)


def _close_in_child() -> None:
    """Leave the lock to the parent: a child that outlives it would hold the lock on."""
    for handle in _HANDLES:
        os.close(handle)
    _HANDLES.clear()
