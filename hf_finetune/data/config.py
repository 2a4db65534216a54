"""Where rows are, which of their columns to read, and how labeled rows are divided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

Kind = Literal["text", "image"]
Role = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Source:
    """Rows on the disk or on the Hub, and the columns to read of them."""

    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """Hub id, csv/tsv/json/jsonl/parquet file, or folder."""
    config_name: str | None = None
    """Configuration of a Hub data set."""
    revision: str | None = None
    """Branch, tag or commit of a Hub data set."""
    text: str | None = None
    """Column of the text. Default: the obvious one."""
    text_pair: str | None = None
    """Column of the second text."""
    image: str | None = None
    """Column of the image. Default: the obvious one."""
    label: str | None = None
    """Column of the class. Default: the obvious one."""
    encoding: str = "utf-8"
    """Encoding of text files."""

    def columns(self, kind: Kind) -> dict[str, str | None]:
        """The columns to read of texts or images, by canonical name; None: the obvious one."""
        inputs = {"text": self.text, "text_pair": self.text_pair} if kind == "text" else {"image": self.image}
        return {**inputs, "label": self.label}


@dataclass(frozen=True)
class SourceSplit(Source):
    """Rows that a command labels or scores."""

    split: str | None = None
    """Split of the data. Default: test, else validation, else train; the log names it."""


@dataclass(frozen=True)
class SplitOptions:
    """Which rows train, choose and judge."""

    validation: str | None = None
    """Name of a split of the data, or a path. None: the data's own, else carved from train."""
    test: str | None = None
    """Name of a split of the data, or a path. None: the data's own."""
    validation_fraction: float = 0.1
    """Share of the distinct inputs that is carved from train where there are no validation rows."""
    test_fraction: float = 0.0
    """Share of the distinct inputs that is carved from train where there are no test rows. 0: none."""
    seed: int = 0
    """Of carving and drawing."""
    max_train_rows: int | None = None
    """At most this many rows stay in train, drawn after the carving."""
    rows_per_class: int | None = None
    """At most this many rows of each class stay in train, drawn before `max_train_rows`."""
    unlabeled: tuple[str, ...] = ()
    """Names of splits of the data, or paths, of rows whose labels are not read. Train itself may be one of them, for
    the rows that were not drawn."""
    keep_left_out: bool = False
    """Return the rows that `rows_per_class` and `max_train_rows` leave out as well."""
