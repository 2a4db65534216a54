"""Attacks by data."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from hostile.bench import Attack, Bench
from hostile.image_bombs import IMAGE_BOMBS
from hostile.table_bombs import TABLE_BOMBS

# Training on many rows takes as long as they do. Images that are refused are refused to all commands.
FEW_ROWS = {
    *(f"{name} of 49 megapixels" for name in ("PNG", "JPEG", "progressive JPEG", "TIFF")),
    *("WebP of 24 megapixels", "images with 100000 texts", "50 cells of a million Chinese letters"),
}


def data_attacks() -> list[Attack]:
    """Data that take far more than their size."""

    def met(command: str, name: str, bomb: Callable[[Path], Any], bench: Bench) -> list[Any]:
        # One at a time is kept, for all commands.
        folder = bench.home / "bomb" / name
        if not folder.exists():
            shutil.rmtree(folder.parent, ignore_errors=True)
            folder.mkdir(parents=True)
            bomb(folder)
        (data,) = folder.iterdir()
        if command == "doctor":
            return ["doctor", data]
        checkpoint, run = ("vit", "images") if data.is_dir() else ("bert", "full")
        return bench.read(command, data, bench.home / checkpoint, bench.home / run)

    return [
        Attack(f"data, {name}: {command}", partial(met, command, name, bomb), (0, 2))
        for name, bomb in (TABLE_BOMBS | IMAGE_BOMBS).items()
        for command in _commands(name)
    ]


def _commands(name: str) -> tuple[str, ...]:
    if name in FEW_ROWS:
        return "doctor", "plan", "train", "predict", "evaluate"
    if name in IMAGE_BOMBS:
        return "doctor", "train"
    return ("doctor",) if "nearly equal rows" in name else ("doctor", "plan")
