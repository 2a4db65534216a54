"""Small data of each task, for the contract that every task keeps. A new task is one line of `CASES`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from helpers.data_files import parquet_file
from PIL import Image

METHODS = ("full", "lora", "head", "top")
OPENINGS = (
    "a good film",
    "a bad film",
    "the plot is bad",
    "the actors are good",
    "the end of a film",
    "a plot in time",
)


@dataclass(frozen=True)
class TaskCase:
    """A task with labels that can be learned."""

    task: str
    of_text: Callable[[str], Any]
    """Returns the label of a text."""
    of_shade: Callable[[int], Any] | None = None
    """Returns the label of a gray image from 0 to 255. None: the task has no images."""
    columns: Callable[[list[str]], dict[str, list]] = lambda texts: {"text": texts}
    """Returns the input columns of texts."""
    flags: tuple[str, ...] = ()
    methods: tuple[str, ...] = METHODS

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of its rows."""
        return ("text",) if self.of_shade is None else ("text", "image")

    def write(self, folder: Path, kind: str, count: int = 40) -> Path:
        """Write rows, and return what `train` reads."""
        if kind == "text":
            texts = [f"{OPENINGS[i % len(OPENINGS)]} {'very' if i % 4 else 'not'} {i}" for i in range(count)]
            path = folder / f"{self.task}.parquet"
            return parquet_file(path, **self.columns(texts), label=[self.of_text(text) for text in texts])
        assert self.of_shade is not None, "the task has images"
        images = folder / f"{self.task}-images"
        images.mkdir()
        shades = np.random.default_rng(0).permutation(np.linspace(0, 255, count).astype(int)).tolist()
        for i, shade in enumerate(shades):
            Image.fromarray(np.full((24, 24, 3), shade, np.uint8)).save(images / f"{i}.png")
        rows = {"file_name": [f"{i}.png" for i in range(count)], "label": [self.of_shade(shade) for shade in shades]}
        parquet_file(images / "metadata.parquet", **rows)
        return images


def _tags(text: str) -> list[str]:
    return [tag for tag in ("good", "bad", "film", "plot") if tag in text]


CASES = (
    # The other tests are of this task.
    TaskCase("single-label", lambda text: "good" if "good" in text else "other", methods=("full",)),
    TaskCase(
        "multi-label",
        _tags,
        lambda shade: [name for name, has in (("dark", shade < 128), ("mid", 64 < shade < 192)) if has],
    ),
    TaskCase(
        "ordinal",
        lambda text: "low" if "bad" in text else "high" if "good" in text else "middle",
        flags=("--label-order", "low,middle,high"),
    ),
    # Far from 0 and 1, so that a scale which is not folded shows.
    TaskCase("regression", lambda text: 1000.5 + 100 * ("good" in text) + len(text), lambda shade: 500 + shade / 3),
)
