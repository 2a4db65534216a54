"""Data sets written by hand, and what the doctor finds in them."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable
from pathlib import Path

from hf_finetune.data.config import Source
from hf_finetune.doctor.examination import Report, examine
from hf_finetune.doctor.findings import Finding

Row = tuple[str, str]
# No word of these is in one class alone.
NOUNS = ("river", "garden", "window", "letter", "morning", "bridge", "engine", "market", "island", "ticket", "forest")
VERBS = (
    "opens",
    "closes",
    "follows",
    "carries",
    "hides",
    "paints",
    "repairs",
    "forgets",
    "measures",
    "crosses",
    "finds",
)


def clean(count: int, seed: int = 0) -> list[Row]:
    """So many different sentences of nine words, every other one of each class."""
    rng = random.Random(seed)
    texts: dict[str, None] = {}
    while len(texts) < count:
        a, b, c = rng.sample(NOUNS, 3)
        u, v = rng.sample(VERBS, 2)
        texts[f"the {a} {u} the {b} and {v} the {c}"] = None
    return [(text, ("no", "yes")[i % 2]) for i, text in enumerate(texts)]


def write(path: Path, rows: Iterable[Row], encoding: str = "utf-8") -> None:
    """Rows as a csv file."""
    with path.open("w", newline="", encoding=encoding) as file:
        lines = csv.writer(file)
        lines.writerow(["text", "label"])
        lines.writerows(rows)


def examined(folder: Path, train: Iterable[Row], test: Iterable[Row] = (), **options) -> Report:
    """The report on these rows."""
    write(folder / "train.csv", train)
    if test := list(test):
        write(folder / "test.csv", test)
    return examine(Source(str(folder)), "text", **options)


def by_name(report: Report) -> dict[str, Finding]:
    """Findings by name."""
    assert len({f.name for f in report.findings}) == len(report.findings)
    return {finding.name: finding for finding in report.findings}


def rows_of(report: Report, name: str) -> list[tuple[str, int]]:
    """Split and row of a finding's rows."""
    return [(row["split"], row["row"]) for row in by_name(report)[name].to_dict(report.examples)["rows"]]
