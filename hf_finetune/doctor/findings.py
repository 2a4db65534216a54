"""What the doctor looks at, and what it finds.

Legend: N rows of all splits together, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from datasets import Dataset

Severity = Literal["serious", "look", "note"]
SEVERITIES: tuple[Severity, ...] = ("serious", "look", "note")
# Characters of a text that an example quotes.
QUOTED = 60


@dataclass(frozen=True)
class Material:
    """The labelled rows of all splits, one behind the other, those to train on first."""

    splits: Mapping[str, Dataset]
    """Canonical rows by split, see `data.loading.Splits`; `train` first."""
    names: tuple[str, ...]
    """Class names, index = number."""
    digests: tuple[bytes, ...]
    """What two rows share exactly when their text, pair of texts or picture's file is the same to the byte."""

    def __len__(self) -> int:
        return len(self.labels_N)

    @cached_property
    def split_N(self) -> np.ndarray:
        """Split of each row, as its place among the splits."""
        return np.repeat(np.arange(len(self.splits)), [len(rows) for rows in self.splits.values()])

    @cached_property
    def row_N(self) -> np.ndarray:
        """Number of each row in what it was read from, from 0."""
        return np.concatenate([np.asarray(rows["row"][:]) for rows in self.splits.values()])

    @cached_property
    def labels_N(self) -> np.ndarray:
        """Class of each row."""
        return np.concatenate([np.asarray(rows["label"][:], dtype=np.int64) for rows in self.splits.values()])

    @property
    def of_texts(self) -> bool:
        """Whether the rows are texts; else they are pictures."""
        return "text" in self.splits["train"].column_names

    @cached_property
    def texts(self) -> list[str]:
        """The text of each row."""
        return [text for rows in self.splits.values() for text in rows["text"][:]]

    @cached_property
    def pairs(self) -> list[str] | None:
        """The second text of each row; None without such a column."""
        if "text_pair" not in self.splits["train"].column_names:
            return None
        return [text or "" for rows in self.splits.values() for text in rows["text_pair"][:]]

    def images(self, start: int, stop: int) -> list[dict[str, Any]]:
        """The encoded pictures of rows in a row."""
        found, before = [], 0
        for rows in self.splits.values():
            inside = range(max(start - before, 0), min(stop - before, len(rows)))
            found += rows.select(inside)["image"][:] if inside else []
            before += len(rows)
        return found

    def split(self, i: int) -> str:
        """Name of a row's split."""
        return list(self.splits)[self.split_N[i]]

    def place(self, i: int) -> str:
        """A row as a person finds it again: `train row 12`."""
        return f"{self.split(i)} row {self.row_N[i]}"

    def name(self, i: int) -> str:
        """Name of a row's class."""
        return self.names[self.labels_N[i]]

    def quote(self, i: int) -> str:
        """The beginning of a row's text, or the name of its picture's file, where it has one."""
        if not self.of_texts:
            path = self.images(i, i + 1)[0]["path"]
            return "" if path is None else Path(path).name
        whole = self.texts[i] if self.pairs is None else f"{self.texts[i]} | {self.pairs[i]}"
        shown = " ".join(whole[: 4 * QUOTED].split())
        return shown if len(shown) <= QUOTED else f"{shown[: QUOTED - 3]}..."

    def some(self, most: int, seed: int = 0) -> np.ndarray:
        """All rows if there are no more than `most`, else as many random ones, in order."""
        if len(self) <= most:
            return np.arange(len(self))
        return np.sort(np.random.default_rng(seed).permutation(len(self))[:most])


@dataclass(frozen=True)
class Suspect:
    """A row with what is wrong with it."""

    index: int
    """Its place in the material."""
    reason: str
    other: int | None = None
    """The row that it is like."""


@dataclass(frozen=True)
class Finding:
    """One kind of defect, and the rows that have it."""

    name: str
    """A short name, the same in every report: `duplicates`."""
    severity: Severity
    """serious: results would mislead, or training learns the wrong thing. look: some rows should be looked at. note: good
    to know."""
    summary: str
    """What was found, with counts."""
    remedy: str
    """What to do."""
    count: int
    """Rows that have it; for a defect of classes or words, how many of these."""
    of: int
    """How many were looked at."""
    suspects: tuple[Suspect, ...] = ()
    """The rows, the worst first."""
    details: tuple[str, ...] = ()
    """What is no row: classes, words."""

    def to_dict(self, material: Material) -> dict[str, Any]:
        """As JSON, with all rows."""

        def named(i: int) -> dict[str, Any]:
            return {"split": material.split(i), "row": int(material.row_N[i])}

        rows = [
            {**named(s.index), "reason": s.reason, **({} if s.other is None else {"other": named(s.other)})}
            for s in self.suspects
        ]
        return {
            "name": self.name,
            "severity": self.severity,
            "count": self.count,
            "of": self.of,
            "summary": self.summary,
            "remedy": self.remedy,
            "details": list(self.details),
            "rows": rows,
        }


def of_rows(
    name: str, severity: Severity, suspects: list[Suspect], of: int, summary: str, remedy: str
) -> list[Finding]:
    """A finding of these rows, or none without any; `summary` goes on from "12 of 300 "."""
    if not suspects:
        return []
    said = f"{len(suspects):,} of {of:,} {summary}"
    return [Finding(name, severity, said, remedy, len(suspects), of, tuple(suspects))]
