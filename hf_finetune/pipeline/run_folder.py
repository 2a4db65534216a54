"""The folder of a run: its name, whether a run can start or resume in it, and writing into it."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from hf_finetune.errors import InputError, TrainingError
from hf_finetune.utils.files import check_writable

# Errors of a disk that is full, read-only, forbidden or broken.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


def output_folder(name: str, output: str | None, *, resume: bool) -> Path:
    """Return the absolute folder of a run, without creating it.

    Args:
        name: of the recipe.
        output: the folder. None: runs/<name>-<n> with the next free n, or with the last n if `resume`.
        resume: whether the folder may hold an unfinished run.

    Raises:
        InputError: the folder cannot be made, holds files and `resume` is off, or holds no run or a finished one.
    """
    folder = (_next_folder(name, resume=resume) if output is None else Path(output).expanduser()).absolute()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output {folder}: this is a file, expected a folder")
    occupied = folder.is_dir() and any(folder.iterdir())
    if occupied and not resume:
        raise InputError(
            f"--output {folder}: the folder is not empty; name another one, or continue its run by --resume"
        )
    if resume and (folder / "result.json").exists():
        raise InputError(f"--output {folder}: the run in it is finished, there is nothing to resume")
    if occupied and not (folder / "recipe.json").exists():
        raise InputError(f"--output {folder}: no recipe.json, this is not the folder of a run")
    check_writable(folder)
    return folder


def _next_folder(name: str, *, resume: bool) -> Path:
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run"
    numbers = [p.name.rpartition("-")[2] for p in Path("runs").glob(f"{stem}-*")]
    taken = [int(number) for number in numbers if number.isdigit()]
    return Path("runs") / f"{stem}-{max(taken, default=0) + (0 if resume and taken else 1)}"


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yield a new folder that replaces `folder` when the block succeeds, and is deleted when it fails."""
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def plain_disk_errors(folder: Path) -> Iterator[None]:
    """Turn a failed write of any library into an error of one line.

    Raises:
        TrainingError: in place of an OSError, or of what safetensors and torch.save raise.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if not _is_disk_error(error):
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error).strip().splitlines()[0]
        raise TrainingError(
            f"{folder}: cannot be written ({reason}); make room there, then --resume continues from the last checkpoint"
        ) from error


def _is_disk_error(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in DISK_ERRORS
    # torch.save names a line of its own source, and no cause.
    return ("I/O error" if isinstance(error, SafetensorError) else "inline_container") in str(error)
