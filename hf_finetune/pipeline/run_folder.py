"""The folder of a run: its name and owner, whether a run can start or resume in it, and writing into it."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate.utils import broadcast_object_list

from hf_finetune.errors import InputError, TrainingError
from hf_finetune.hub import plots
from hf_finetune.utils import folder_lock
from hf_finetune.utils.artifacts import artifacts_in
from hf_finetune.utils.disk_errors import DISK_ERRORS, DiskError
from hf_finetune.utils.exit_status import is_main_process
from hf_finetune.utils.files import check_writable, discard, is_temporary, put_in_place, read_object, sync
from hf_finetune.utils.folder_lock import owned, refuse_owned

logger = logging.getLogger("hf_finetune.run")
T = TypeVar("T")
UNFINISHED = "unfinished"
"""Key of a result.json that a better one may replace."""


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, in which no other process writes."""

    path: Path
    is_unfinished: bool
    """Whether it holds a run that can be resumed."""


@contextmanager
def owned_folder(name: str, output: str | None, *, resume: bool) -> Iterator[RunFolder]:
    """Create the folder of a run and own it in the block; remove it afterwards if nothing was written to it.

    The main process does so, and tells the others. What a killed run has left half-written is removed.

    Args:
        name, output, resume: see `output_folder`.

    Raises:
        InputError: see `output_folder`; or another process owns the folder.
    """
    with ExitStack() as stack:
        yield _from_main_process(lambda: stack.enter_context(_claimed(name, output, resume=resume)))


def _from_main_process(decide: Callable[[], T]) -> T:
    """Return in all processes what the main one decides, or raise its InputError."""
    outcome: list[Any] = [None]
    if is_main_process():
        try:
            outcome = [decide()]
        except InputError as error:
            outcome = [error]
    if torch.distributed.is_initialized():
        broadcast_object_list(outcome)
    if isinstance(outcome[0], InputError):
        raise outcome[0]
    return outcome[0]


@contextmanager
def _claimed(name: str, output: str | None, *, resume: bool) -> Iterator[RunFolder]:
    while True:
        folder = output_folder(name, output, resume=resume)
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=output is not None or resume)
            for path in missing:
                sync(path.parent)
            break
        except FileExistsError:  # another run has just taken this number
            continue
        except OSError as error:
            raise InputError(f"--output {folder}: cannot be made ({error.strerror})") from None
    try:
        with owned(folder):
            # Another run may have ended in it since.
            _check_content(folder, resume=resume)
            resumable = resume and is_unfinished(folder)
            # An undamaged one would have been refused, or be resumed.
            for damaged in ("result.json", *(() if resumable else ("recipe.json",))):
                if (folder / damaged).exists() and UNFINISHED not in (read_object(folder / damaged) or {}):
                    logger.warning("%s: damaged, it is written again", folder / damaged)
            _remove_temporaries(folder)
            yield RunFolder(folder, resumable)
    finally:
        for path in missing:
            with suppress(OSError):
                path.rmdir()


def output_folder(name: str, output: str | None, *, resume: bool) -> Path:
    """Return the absolute folder of a run, without creating it.

    Args:
        name: of the recipe.
        output: the folder. None: runs/<name>-<n> with the next free n, or with the last n if `resume`.
        resume: whether the folder may hold an unfinished run.

    Raises:
        InputError: the folder cannot be made, holds files and `resume` is off, holds no run or a finished one, or
            another process writes there.
    """
    folder = _named_folder(name, output, resume=resume)
    # A new number is free. If another run takes it from now on, `owned_folder` takes the next one.
    if output is None and not resume:
        check_writable(folder.parent)
        return folder
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output {folder}: this is a file, expected a folder")
    refuse_owned(folder)
    if resume and folder.is_dir() and is_finished(folder):
        remove_leftovers(folder)
    _check_content(folder, resume=resume)
    check_writable(folder)
    return folder


def finished_folder(name: str, output: str | None) -> Path | None:
    """Return the folder of a finished run, for what comes after it. None: there is no finished run in it.

    The main process decides, and tells the others. What a kill in its last moments has left is removed.

    Args:
        name, output: see `output_folder`, of a run that is resumed.

    Raises:
        InputError: another process writes there; or see `is_finished`.
    """

    def decide() -> Path | None:
        folder = _named_folder(name, output, resume=True)
        if not folder.is_dir():
            return None
        refuse_owned(folder)
        if not is_finished(folder):
            return None
        remove_leftovers(folder)
        return folder

    return _from_main_process(decide)


def _named_folder(name: str, output: str | None, *, resume: bool) -> Path:
    return (_next_folder(name, resume=resume) if output is None else Path(output).expanduser()).absolute()


def _check_content(folder: Path, *, resume: bool) -> None:
    occupied = folder.is_dir() and not all(map(_is_left_by_kill, folder.iterdir()))
    if occupied and not resume:
        raise InputError(
            f"--output {folder}: the folder is not empty; name another one, or continue its run by --resume"
        )
    if occupied and not (folder / "recipe.json").exists():
        raise InputError(f"--output {folder}: no recipe.json, this is not the folder of a run")
    if occupied and is_finished(folder):
        raise InputError(f"--output {folder}: the run in it is finished, there is nothing to resume")


def is_finished(folder: Path) -> bool:
    """Return whether the folder holds a finished run: a result.json that can be read, and that is not of a climb that
    goes on (`search.ladder`).

    Raises:
        InputError: result.json is damaged, and beside the trained files no checkpoint is left to write it again.
    """
    path = folder / "result.json"
    if not path.exists():
        return False
    result = read_object(path) or {}
    if "metrics" in result:
        return not result.get(UNFINISHED)
    if artifacts_in(folder) and not any((folder / "checkpoints").glob("checkpoint-*")):
        raise InputError(
            f"{path}: damaged, and no checkpoint is left to write it again; the trained files stay as they are, "
            "start the run anew in another --output"
        )
    return False


def is_unfinished(folder: Path) -> bool:
    """Return whether a folder without a finished run holds what can be resumed.

    A recipe.json that cannot be read does not matter before there is a checkpoint.

    Raises:
        InputError: recipe.json is damaged, and there are checkpoints, of which nobody knows what they are.
    """
    path = folder / "recipe.json"
    if not path.exists():
        return False
    if "recipe" in (read_object(path) or {}):
        return True
    if has_checkpoints(folder):
        raise InputError(
            f"{path}: damaged, so that nobody knows what its checkpoints are; start the run anew in another --output"
        )
    return False


def has_checkpoints(folder: Path) -> bool:
    """Return whether a run has saved what a resumed one continues from: a checkpoint, or the pretrained encoder."""
    return any(folder.glob("**/checkpoint-*")) or (folder / "pretrained").exists()


def _is_left_by_kill(path: Path) -> bool:
    return path.name == folder_lock.FILE or is_temporary(path)


def _remove_temporaries(folder: Path) -> None:
    """Remove what a killed run has left half-written."""
    below = [path for name in ("checkpoints", "pretraining", plots.FOLDER) for path in (folder / name).rglob("*")]
    for path in filter(is_temporary, (*folder.iterdir(), *below)):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what a kill in the last moments of a run has left in its folder, beside the result.

    Raises:
        InputError: there is something to remove, and another process owns the folder, or nothing can be written there.
    """
    checkpoints = folder / "checkpoints"
    superfluous = [checkpoints] if checkpoints.exists() and _are_superfluous(folder) else []
    if superfluous or any(map(_is_left_by_kill, (*folder.iterdir(), *(folder / plots.FOLDER).glob("*")))):
        with owned(folder):
            for path in superfluous:
                discard(path)
            _remove_temporaries(folder)


def _are_superfluous(folder: Path) -> bool:
    """Return whether the checkpoints of a finished run were about to be removed."""
    recipe, result = (read_object(folder / name) for name in ("recipe.json", "result.json"))
    try:
        checks = [check["ok"] for check in result["parity"].values()]  # type: ignore[index]
        keeps = recipe["recipe"]["train"]["keep_checkpoints"]  # type: ignore[index]
    except (LookupError, TypeError, AttributeError):
        return False
    return keeps is False and all(check is True for check in checks)


def _next_folder(name: str, *, resume: bool) -> Path:
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run"
    numbers = [p.name.rpartition("-")[2] for p in Path("runs").glob(f"{stem}-*")]
    taken = [int(number) for number in numbers if number.isdigit()]
    return Path("runs") / f"{stem}-{max(taken, default=0) + (0 if resume and taken else 1)}"


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yield a new folder that replaces `folder` when the block succeeds, and is deleted when it fails.

    Its files are on the disk then, with the rights that the umask leaves.
    """
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        put_in_place(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def plain_disk_errors(folder: Path) -> Iterator[None]:
    """Turn a failed read or write of any library into an error of one line, which names the file's place.

    Args:
        folder: of the run, for errors that do not name a file.

    Raises:
        TrainingError: in place of an OSError, or of what safetensors and torch.save raise.
    """
    try:
        yield
    # tokenizers raises a plain Exception.
    except Exception as error:
        disk_error = DiskError.of(error)
        if disk_error is None or disk_error.number not in DISK_ERRORS:
            raise
        raise TrainingError(
            f"{disk_error.describe(folder)}, then --resume continues from the last checkpoint"
        ) from error
