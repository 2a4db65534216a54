"""What the doctor looks at, every defect that it knows, and what it finds.

Legend: N rows of all splits together, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from datasets import Dataset

from hf_finetune.data.image_decoding import EncodedImage

Severity = Literal["serious", "look", "note"]
SEVERITIES: tuple[Severity, ...] = ("serious", "look", "note")
# Characters of a text that an example quotes.
QUOTED = 60


@dataclass(frozen=True)
class Examples:
    """The labeled rows of all splits, one behind the other, those to train on first."""

    splits: Mapping[str, Dataset]
    """Canonical rows by split, see `data.loading.Splits`; `train` first."""
    names: tuple[str, ...]
    """Class names, index = number."""
    digests: tuple[bytes, ...]
    """What two rows share exactly when their text, pair of texts or image's file is the same to the byte."""

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
    def is_text(self) -> bool:
        """Whether the rows are texts; else they are images."""
        return "text" in self.splits["train"].column_names

    @cached_property
    def sides(self) -> list[list[str]]:
        """The text of each row; and the second texts, of pairs."""
        names = [name for name in ("text", "text_pair") if name in self.splits["train"].column_names]
        return [[text or "" for rows in self.splits.values() for text in rows[name][:]] for name in names]

    def joined_text(self, i: int, separator: str) -> str:
        """The text of a row, or both texts of its pair."""
        return separator.join(side[i] for side in self.sides)

    def images(self, start: int, stop: int) -> list[EncodedImage]:
        """The encoded images of consecutive rows."""
        images: list[EncodedImage] = []
        before = 0
        for rows in self.splits.values():
            here = range(max(start - before, 0), min(stop - before, len(rows)))
            images += rows.select(here)["image"][:] if here else []
            before += len(rows)
        return images

    def split(self, i: int) -> str:
        """Name of a row's split."""
        return list(self.splits)[self.split_N[i]]

    def place(self, i: int) -> str:
        """A row as a person finds it again: `train row 12`."""
        return f"{self.split(i)} row {self.row_N[i]}"

    def label(self, i: int) -> str:
        """Name of a row's class."""
        return self.names[self.labels_N[i]]

    def quote(self, i: int) -> str:
        """The beginning of a row's text, or the name of its image's file, where it has one."""
        if not self.is_text:
            path = self.images(i, i + 1)[0]["path"]
            return "" if path is None else Path(path).name
        text = " ".join(self.joined_text(i, " | ")[: 4 * QUOTED].split())
        return text if len(text) <= QUOTED else f"{text[: QUOTED - 3]}..."

    def sample(self, most: int, seed: int = 0) -> np.ndarray:
        """All rows if there are no more than `most`, else as many random ones, in order."""
        if len(self) <= most:
            return np.arange(len(self))
        return np.sort(np.random.default_rng(seed).permutation(len(self))[:most])


@dataclass(frozen=True)
class Defect:
    """A kind of defect, the same in every report."""

    severity: Severity
    """serious: results would mislead, or training learns the wrong thing. look: some rows should be looked at. note:
    good to know."""
    summary: str
    """What is wrong, as a format; `{count}` of `{of}` have it."""
    remedy: str


DEFECTS = {
    "unusable": Defect(
        "serious",
        "{count:,} of {of:,} rows have a {column} that cannot be used: training would refuse them",
        "correct or remove them; they are left out below",
    ),
    "leaked": Defect(
        "serious",
        "{count:,} of {of:,} evaluation rows are in train too, exactly alike: scores on them are too good",
        "take them out of train, or out of the evaluation rows",
    ),
    "conflicts": Defect(
        "serious",
        "{count:,} of {of:,} rows have a {input} that occurs with another label as well",
        "decide on one label, or remove them: no model can have both right",
    ),
    "near_leaked": Defect(
        "serious",
        "{count:,} of {of:,} evaluation rows have {alike} as a row of train{otherwise}",
        "take one of the two out: scores on such rows are too good",
    ),
    "duplicates": Defect(
        "look",
        "{count:,} of {of:,} training rows repeat an earlier one exactly",
        "keep one of each, unless repetition is meant as weight",
    ),
    "near_duplicates": Defect(
        "look",
        "{count:,} of {of:,} training rows have {alike} as an earlier one{otherwise}",
        "keep one of each; where their labels differ, decide on one",
    ),
    "few_rows": Defect(
        "look",
        "{count} of {of} classes have fewer than {limit} training rows",
        "label more rows of them, or join them to others",
    ),
    "missing_classes": Defect(
        "look",
        "classes without a row in a split: nothing is measured of them there",
        "move or label rows, so that every split has every class",
    ),
    "uneven_classes": Defect(
        "note",
        "{largest} has {most:,} training rows, {smallest} {least:,}",
        "judge by macro F1; try class weights (--objective.class-weights) or --batching.sampling",
    ),
    "telltales": Defect(
        "note",
        "{marks} that almost give a class away by themselves: {count}",
        "see whether they are there only because of how the data were made; if so, remove them",
    ),
    "damaged_characters": Defect(
        "look",
        "{count:,} of {of:,} texts have damaged characters",
        "read the source again in its own encoding (--data.encoding), or repair the texts",
    ),
    "markup": Defect("look", "{count:,} of {of:,} texts hold HTML", "strip tags and entities"),
    "only_urls": Defect(
        "look", "{count:,} of {of:,} texts are nothing but web addresses", "remove them, or fetch the text"
    ),
    "very_short": Defect(
        "note",
        "{count:,} of {of:,} texts have one word or none; half of the texts have {usual:g} words or more",
        "see whether they say anything of their class",
    ),
    "very_long": Defect(
        "note",
        "{count:,} of {of:,} texts have more than {limit:g} words; half of the texts have {usual:g} words or more",
        "see whether several texts ran together",
    ),
    "cut_off": Defect("note", "{count:,} of {of:,} texts {how}", "raise --max-length if what matters stands there"),
    "one_colour": Defect(
        "look",
        "{count:,} of {of:,} images are of one color",
        "remove or replace them: there is nothing to be seen",
    ),
    "tiny_pictures": Defect(
        "look",
        "{count:,} of {of:,} images are tiny; half of all have {usual:g} pixels or more on the shorter side",
        "see whether they are thumbnails of others, or placeholders",
    ),
}


@dataclass(frozen=True)
class Suspect:
    """A row with what is wrong with it."""

    index: int
    """Its place in the examples."""
    reason: str
    other: int | None = None
    """The row that it is like."""


@dataclass(frozen=True)
class Finding:
    """A defect of a data set, and the rows that have it."""

    name: str
    """The same in every report: `duplicates`."""
    severity: Severity
    summary: str
    remedy: str
    count: int
    """Rows that have it; for a defect of classes or words, how many of these. 0: there is no such defect."""
    of: int
    """How many were looked at."""
    suspects: tuple[Suspect, ...] = ()
    """The rows, the worst first."""
    details: tuple[str, ...] = ()
    """What is no row: classes, words."""

    def to_dict(self, examples: Examples) -> dict[str, Any]:
        """As JSON, with all rows."""

        def place(i: int) -> dict[str, str | int]:
            return {"split": examples.split(i), "row": int(examples.row_N[i])}

        rows = [
            {**place(s.index), "reason": s.reason, **({} if s.other is None else {"other": place(s.other)})}
            for s in self.suspects
        ]
        fields = {name: value for name, value in vars(self).items() if name != "suspects"}
        return {**fields, "details": list(self.details), "rows": rows}


def diagnose(
    defect: str,
    of: int,
    suspects: Sequence[Suspect] = (),
    *,
    name: str = "",
    count: int | None = None,
    details: Sequence[str] = (),
    severity: Severity | None = None,
    **words: object,
) -> Finding:
    """A finding of a known defect.

    Args:
        defect: among `DEFECTS`.
        of: how many were looked at.
        name: None: the defect's.
        count: None: as many as there are suspects or details.
        severity: None: the defect's.
        words: what the summary's format names.
    """
    kind = DEFECTS[defect]
    count = len(suspects) + len(details) if count is None else count
    summary = kind.summary.format(count=count, of=of, **words)
    return Finding(
        name or defect, severity or kind.severity, summary, kind.remedy, count, of, tuple(suspects), tuple(details)
    )
