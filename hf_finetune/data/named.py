"""The rows that a command is given to label or to score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Source:
    """Rows to be labelled or scored."""

    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """Hub id, csv/tsv/json/jsonl/parquet file, or folder."""
    config_name: str | None = None
    """Configuration of a Hub data set."""
    revision: str | None = None
    """Branch, tag or commit of a Hub data set."""
    split: str | None = None
    """Split of the data. Default: test, else validation, else train; said aloud."""
    text: str | None = None
    """Column of the text."""
    text_pair: str | None = None
    """Column of the second text."""
    image: str | None = None
    """Column of the picture."""
    label: str | None = None
    """Column of the class."""
    encoding: str = "utf-8"
    """Encoding of text files."""
