"""All findings on a data set, and the report of them."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_finetune.data.config import Kind, Source, SplitOptions
from hf_finetune.data.labeled import LabeledData, read_labeled
from hf_finetune.data.rows import UnusableRow
from hf_finetune.doctor.classes import balance, of_marks, telltales
from hf_finetune.doctor.duplicates import repeats
from hf_finetune.doctor.findings import SEVERITIES, Finding, Material
from hf_finetune.doctor.images import look, marks, pictures
from hf_finetune.doctor.near_duplicates import alike_pictures, alike_texts, plain_words
from hf_finetune.doctor.texts import WORD, texts
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import Notes

logger = logging.getLogger("hf_finetune.run")

# Rows whose words, tokens or shrunken pixels are looked at; of more, so many random ones.
MOST = 20_000
# Rows, and classes or words, that the report names of each finding.
ROWS_NAMED, DETAILS_NAMED = 3, 5


@dataclass(frozen=True)
class Report:
    """What there is, and what was found."""

    material: Material
    places: dict[str, str]
    """What each split was read from."""
    classes: dict[str, dict[str, int]]
    """Rows by class and split."""
    statistics: dict[str, Any]
    """Of lengths, or of sizes."""
    findings: tuple[Finding, ...]
    """The most severe first."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "kind": "text" if self.material.of_texts else "image",
            "splits": {
                split: {"rows": len(rows), "source": self.places[split]} for split, rows in self.material.splits.items()
            },
            "classes": self.classes,
            "statistics": self.statistics,
            "findings": [finding.to_dict(self.material) for finding in self.findings],
        }

    def describe(self) -> str:
        """As lines of text, with some rows of each finding."""
        material, kind = self.material, "texts" if self.material.of_texts else "pictures"
        lines = [f"{len(material):,} {kind}, {len(material.names)} classes; rows are counted from 0"]
        for split, rows in material.splits.items():
            lines.append(f"  {split:<11} {len(rows):>9,} rows  {self.places[split]}")
        for finding in self.findings:
            lines += ["", f"{finding.severity + ':':<9}{finding.summary}"]
            for suspect in finding.suspects[:ROWS_NAMED]:
                quote = material.quote(suspect.index)
                lines.append(f"         {material.place(suspect.index)}: {suspect.reason}{quote and f' - {quote}'}")
            lines += [f"         {detail}" for detail in finding.details[:DETAILS_NAMED]]
            left = max(0, len(finding.suspects) - ROWS_NAMED) + max(0, len(finding.details) - DETAILS_NAMED)
            if left:
                lines.append(f"         and {left:,} more (--json names all)")
            lines.append(f"         remedy: {finding.remedy}")
        counts = [(severity, sum(f.severity == severity for f in self.findings)) for severity in SEVERITIES]
        told = ", ".join(f"{count} {severity}" for severity, count in counts if count)
        return "\n".join([*lines, "", f"findings: {told}" if told else "nothing found"])


def examine(
    source: Source,
    kind: Kind,
    options: SplitOptions | None = None,
    *,
    checkpoint: str | None = None,
    max_length: int = 128,
) -> Report:
    """Read a data set as `data.loading.load` does, but for rows that cannot be used, and look for whatever may be wrong.

    Args:
        checkpoint: whose tokens are counted; None: words are.
        max_length: tokens that training would read of a text.

    Raises:
        InputError: as `data.labeled.read_labeled` and `models.processors.load_tokenizer`; a checkpoint for images.
    """
    if checkpoint is not None and kind == "image":
        raise InputError(
            f"--model {checkpoint}: it tells how long texts are, and {source.path} holds images; leave it out"
        )
    data = read_labeled(source, kind, options or SplitOptions(), Notes(), leave_out_unusable=True)
    digests = tuple(digest for rows in data.rows.values() for digest in rows.digests)
    material = Material(data.datasets, data.labels, digests)
    some = material.some(MOST)
    if len(some) < len(material):
        logger.info("of %d rows, %d are looked at more closely, drawn at random", len(material), len(some))
    uneven, classes = balance(material)
    found = [*unusable(data), *uneven]
    if kind == "text":
        counted = None if checkpoint is None else _tokens_of(material, checkpoint, max_length)
        more, statistics = texts(material, max_length=max_length, count_tokens=counted, sample=some)
        near, shown, what = alike_texts(material), of_marks(_words(material, some)), "words"
    else:
        looks = look(material)
        more, statistics = pictures(material, looks)
        near, shown, what = alike_pictures(looks.shrunken_NF, some), of_marks(marks(looks)), "sizes of pictures"
    labels_N = material.labels_N[some] if kind == "text" else material.labels_N
    found += [*more, *repeats(material, near), *telltales(*shown, labels_N, material.names, what=what)]
    found.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Report(material, data.places, classes, statistics, tuple(found))


def unusable(data: LabeledData) -> list[Finding]:
    """Findings on rows that training would refuse, one for each column."""
    what = {"text": "text", "text_pair": "second text", "image": "picture", "label": "label"}
    rows = sum(map(len, data.rows.values())) + sum(map(len, data.unusable.values()))
    findings = []
    for column, called in what.items():
        bad = [(split, row) for split, found in data.unusable.items() for row in found if row.column == column]
        if bad:
            findings.append(
                Finding(
                    f"unusable_{column}",
                    "serious",
                    f"{len(bad):,} of {rows:,} rows have a {called} that cannot be used: training would refuse them",
                    "correct or remove them; they are left out below",
                    len(bad),
                    rows,
                    details=tuple(f"{split} row {row.row}{_spot(row)}: {row.reason}" for split, row in bad),
                )
            )
    return findings


def _spot(row: UnusableRow) -> str:
    """What leads to a row beside its number: its line, or a file that holds nothing else."""
    if (line := re.search(r"\(line \d+\)$", row.place)) is not None:
        return f" {line[0]}"
    # Messages count rows from 1, as people do; beside our number theirs would confuse.
    return "" if ", row " in row.place else f" ({row.place})"


def _words(material: Material, some: np.ndarray) -> Iterator[list[str]]:
    """Words of the rows at these places."""
    for i in some.tolist():
        both = material.texts[i] if material.pairs is None else f"{material.texts[i]} {material.pairs[i]}"
        yield WORD.findall(plain_words(both))


def _tokens_of(material: Material, checkpoint: str, max_length: int) -> Callable[[list[int]], list[int]]:
    from hf_finetune.models.processors import load_tokenizer

    tokenizer = load_tokenizer(checkpoint, max_length=max_length, sample=material.texts[:200])

    def count(rows: list[int]) -> list[int]:
        pairs = None if material.pairs is None else [material.pairs[i] for i in rows]
        encoded = tokenizer([material.texts[i] for i in rows], pairs, return_attention_mask=False, verbose=False)
        return [len(ids) for ids in encoded["input_ids"]]

    return count
