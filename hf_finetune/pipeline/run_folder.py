"""The folder of a run: its name, what may lie in it, and whether a run in it can be resumed."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from hf_finetune.errors import InputError, TrainingError
from hf_finetune.utils.files import check_writable
from hf_finetune.utils.plain import flatten

# Fields that may differ between a run and its resumption: they change nothing that is trained. Of a teacher its weights
# are compared, wherever they lie now.
MAY_CHANGE = frozenset(
    {"evaluate.resamples", "evaluate.baselines", "evaluate.parity_rows", "train.keep_checkpoints", "objective.teacher"}
)

# What a disk answers that is full, read-only, someone else's or broken.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


def output_folder(name: str, output: str | None, *, resume: bool) -> Path:
    """The absolute folder of a run; nothing is created.

    Args:
        name: the recipe's name; without `output` the folder is runs/<name>-<n> with the next free n, or with `resume`
            the one with the highest n.

    Raises:
        InputError: when no folder can be made there, when it holds something and `resume` was not asked for, or when
            the run in it is finished.
    """
    if output is None:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run"
        taken = [
            int(p.name.rpartition("-")[2])
            for p in Path("runs").glob(f"{stem}-*")
            if p.name.rpartition("-")[2].isdigit()
        ]
        folder = Path("runs") / f"{stem}-{max(taken, default=0) + (0 if resume and taken else 1)}"
    else:
        folder = Path(output).expanduser()
    folder = folder.absolute()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output {folder}: this is a file, expected a folder")
    occupied = folder.is_dir() and any(folder.iterdir())
    if occupied and not resume:
        raise InputError(
            f"--output {folder}: the folder is not empty; name another one, or go on with its run by --resume"
        )
    if resume and (folder / "result.json").exists():
        raise InputError(f"--output {folder}: the run in it is finished, there is nothing to resume")
    if resume and occupied and not (folder / "recipe.json").exists():
        raise InputError(f"--output {folder}: no recipe.json, this is not the folder of a run")
    check_writable(folder)
    return folder


def finished_run(artifact: Path) -> dict[str, Any] | None:
    """The result.json of the run that wrote a model/ or encoder/; None: it was written by none, or has lost it."""
    path = artifact.parent / "result.json"
    if artifact.name not in ("model", "encoder") or not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None


def read_record(folder: Path) -> dict[str, Any]:
    """The folder's recipe.json.

    Raises:
        InputError: it is damaged.
    """
    path = folder / "recipe.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}); start the run anew in another folder") from error


def refuse_changes(folder: Path, record: dict[str, Any]) -> None:
    """Compare what a resumed run would do with what the folder's recipe.json says.

    Raises:
        InputError: naming the first field that differs, with both values; or see `read_record`.
    """
    old, new = _comparable(read_record(folder)), _comparable(record)
    for name in sorted(old.keys() | new.keys()):
        if name in MAY_CHANGE or name.startswith("hub."):
            continue
        if old.get(name) != new.get(name):
            raise InputError(
                f"{name}: the run in {folder} has {old.get(name)!r}, now it is {new.get(name)!r}; "
                "resume with the same value, or start a new run"
            )


def _comparable(record: dict[str, Any]) -> dict[str, Any]:
    return {
        **flatten(record["recipe"]),
        "data fingerprint": record["fingerprint"],
        "weights of the checkpoint": record["weights"],
        "weights of the teacher": record.get("teacher"),
        "checkpoints of data.augment": record.get("augment_checkpoints"),
        "fingerprint of the rows without labels": record.get("pretrain_fingerprint"),
        "processes": record["processes"],
        "mixed precision": record["mixed_precision"],
    }


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A new folder to fill; it takes the place of `folder` when the block ends well, and goes when it does not."""
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
    """One line when the disk does not take what a run writes, whichever library was writing.

    Raises:
        TrainingError: in place of an OSError, and of what safetensors and torch.save make of one.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if not _is_of_the_disk(error):
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error).strip().splitlines()[0]
        raise TrainingError(
            f"{folder}: cannot be written ({reason}); make room there, then --resume goes on from the last checkpoint"
        ) from error


def _is_of_the_disk(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in DISK_ERRORS
    # torch.save names the place in its own source and no cause.
    return ("I/O error" if isinstance(error, SafetensorError) else "inline_container") in str(error)
