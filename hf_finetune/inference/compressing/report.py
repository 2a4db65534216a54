"""The typed result of a compression."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from hf_finetune.evaluation.compression_report import compression_text, final_text, rows_of
from hf_finetune.hub import plots
from hf_finetune.inference.result import Plot, html_table


@dataclass(frozen=True, repr=False)
class Compressed:
    """A compressed classifier, and what each candidate cost and gave. It prints as a table, and as HTML in a notebook.

    Examples:
        >>> compressed.chosen in compressed.candidates
        True
    """

    folder: Path
    """Of the chosen candidate: `Classifier.load(compressed.folder)`."""
    document: Mapping[str, Any]
    """The section `compression` of result.json."""

    @property
    def chosen(self) -> str:
        """Name of the chosen candidate."""
        return str(self.document["chosen"])

    @property
    def candidates(self) -> dict[str, Mapping[str, Any]]:
        """What was measured of each, by name; the first is the source."""
        return {each["name"]: each for each in self.document["candidates"]}

    @property
    def plot(self) -> Plot | None:
        """Quality against rate and size. None: plots are off."""
        png = self.folder / plots.FOLDER / "compression.png"
        return Plot(plots.TITLES["compression"], png, png.with_suffix(".svg")) if png.is_file() else None

    def place(self, name: str) -> Path:
        """Return the folder of a kept candidate, for `Classifier.load`."""
        return self.folder / "candidates" / name

    def __str__(self) -> str:
        return compression_text(self.document)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        header, *rows = rows_of(self.document)
        parts = [html_table(header, rows), f"<p>{escape(final_text(self.document))}</p>"]
        return "".join([*parts, *([] if self.plot is None else [self.plot.html])])
