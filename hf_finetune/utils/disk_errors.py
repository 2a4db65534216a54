"""Errors of the disk in one line: the place, the reason and the remedy, whatever library raised them."""

import errno
import os
import re
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hf_finetune.utils import environment
from hf_finetune.utils.files import is_temporary
from hf_finetune.utils.messages import printable

# Errors of a disk that is full, of one that takes no file of this size, and of one that is read-only, forbidden or
# broken.
NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
DISK_ERRORS = (*NO_ROOM, *FORBIDDEN, errno.EIO)
# Errors of a path that no file can have.
PATH_ERRORS = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)


@dataclass(frozen=True)
class DiskError:
    """A file that could not be read or written."""

    number: int
    reason: str
    path: Path | None
    """The file, or the folder of an unfinished one; None: the error does not name it."""

    @classmethod
    def of(cls, error: Exception) -> Self | None:
        """Return the error of the disk that a library raised; None for any other error."""
        number = _number(error)
        if number not in (*DISK_ERRORS, *PATH_ERRORS):
            return None
        if not isinstance(error, OSError):
            return cls(number, str(error).strip().splitlines()[0], None)
        # A rename has two names; the second one is the user's.
        name = error.filename2 or error.filename
        path = Path(os.fsdecode(name)) if isinstance(name, str | bytes) else None
        reason = error.strerror or os.strerror(number)
        return cls(number, reason, path.parent if path is not None and is_temporary(path) else path)

    @property
    def has_place(self) -> bool:
        """Whether `describe` can say where it happened without knowing what was done."""
        return self.path is not None or self.number in NO_ROOM

    @property
    def is_of_the_path(self) -> bool:
        """Whether another path would do: the disk itself is neither full nor broken."""
        return self.number in (*FORBIDDEN, *PATH_ERRORS)

    def describe(self, *homes: Path) -> str:
        """Return place, reason and remedy.

        Args:
            homes: the folders in which it may have happened, if the error does not name one.
        """
        path = self.path if self.path is not None else self._likely(*homes)
        return f"{printable(str(path))}: cannot be {self._verb(path)} ({self.reason}); {self._remedy}"

    def _likely(self, *homes: Path) -> Path:
        """Return the folder on the fullest disk, if room is missing: a write names no file. Else the first folder."""
        if self.number not in NO_ROOM:
            return homes[0]
        free: dict[int, tuple[int, Path]] = {}
        for home in (*homes, Path(tempfile.gettempdir()), environment.cache_folder()):
            with suppress(OSError):
                present = next(path for path in (home, *home.absolute().parents) if path.exists())
                free.setdefault(os.stat(present).st_dev, (shutil.disk_usage(present).free, home))
        return min(free.values(), default=(0, homes[0]))[1]

    def _verb(self, path: Path) -> str:
        if self.number in PATH_ERRORS:
            return "used"
        if self.number in (*NO_ROOM, errno.EROFS):
            return "written"
        if self.number == errno.EIO or not os.access(path.absolute().parent, os.X_OK):
            return "read or written"
        return "read" if os.path.exists(path) and not os.access(path, os.R_OK) else "written"

    @property
    def _remedy(self) -> str:
        if self.number in NO_ROOM:
            return "make room there"
        if self.number in PATH_ERRORS:
            return "name another path"
        return "check the disk" if self.number == errno.EIO else "check its rights"


def _number(error: Exception) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    # safetensors and tokenizers are written in Rust, which names the number.
    if match := re.search(r"\(os error (\d+)\)", str(error)):
        return int(match[1])
    # torch.save names a line of its own source or the C++ stream, and no cause: most likely the disk is full.
    return errno.ENOSPC if re.search("inline_container|basic_ios", str(error)) else None
