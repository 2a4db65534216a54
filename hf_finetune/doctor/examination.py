"""Check a data set, and report the findings."""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import sparse

from hf_finetune.data.config import Kind, Source, SplitOptions
from hf_finetune.data.labels import near_labels, similar_labels
from hf_finetune.data.loading import LabeledData, read_labeled
from hf_finetune.data.rows import UnusableRow, to_dataset
from hf_finetune.doctor.classes import find_telltales, mark_table
from hf_finetune.doctor.duplicates import find_duplicates
from hf_finetune.doctor.examples import Examples
from hf_finetune.doctor.findings import SEVERITIES, Finding, diagnose
from hf_finetune.doctor.images import decode_images, examine_images
from hf_finetune.doctor.labels import CHECKS
from hf_finetune.doctor.near_duplicates import near_duplicate_images, near_duplicate_texts, plain_words, words_in
from hf_finetune.doctor.pairs import examine_pairs
from hf_finetune.doctor.sequences import KMER, examine_sequences, kmers_of
from hf_finetune.doctor.texts import LONG_TEXT, Statistics, examine_texts
from hf_finetune.errors import InputError
from hf_finetune.models.config import CHECKPOINT_LIMITS, CheckpointLimits
from hf_finetune.utils.console import table, wrapped
from hf_finetune.utils.messages import Notes, counted
from hf_finetune.utils.sequences import SequenceKind

logger = logging.getLogger("hf_finetune.run")

# Number of random rows whose words, tokens or pixels are compared.
MOST = 20_000
# Number of rows, and of classes or words, that the report shows of each finding.
ROWS_NAMED, DETAILS_NAMED = 3, 5
INDENT = " " * 9


@dataclass(frozen=True)
class Report:
    """Contents and findings of a data set."""

    examples: Examples
    places: dict[str, str]
    """Where each split was read from."""
    classes: dict[str, dict[str, int]]
    """Number of rows by class or tag, and split; none for numbers."""
    statistics: Statistics
    """Statistics of the lengths of texts or the sizes of images, and of numbers."""
    findings: tuple[Finding, ...]
    """The most severe first."""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON."""
        splits = self.examples.splits.items()
        return {
            "kind": self.examples.kind,
            "task": self.examples.task,
            "splits": {split: {"rows": len(rows), "source": self.places[split]} for split, rows in splits},
            "classes": self.classes,
            "statistics": self.statistics,
            "findings": [finding.to_dict(self.examples) for finding in self.findings],
        }

    def describe(self) -> str:
        """Return the report as text, with some rows of each finding."""
        examples = self.examples
        checks = CHECKS[examples.task]
        labels = counted(len(examples.names), checks.noun, checks.nouns)
        title = f"{counted(len(examples), examples.kind)}, {labels}; rows are counted from 0"
        splits = [(split, counted(len(rows), "row"), self.places[split]) for split, rows in examples.splits.items()]
        lines = [title, *(f"  {line}" for line in table(splits, right=[1]).splitlines())]
        for finding in self.findings:
            lines += ["", f"{finding.severity + ':':<9}{finding.summary}"]
            for suspect in finding.suspects[:ROWS_NAMED]:
                quote = examples.quote(suspect.index)
                lines.append(f"{INDENT}{examples.place(suspect.index)}: {suspect.reason}{quote and f' - {quote}'}")
            lines += [INDENT + detail for detail in finding.details[:DETAILS_NAMED]]
            left = max(0, len(finding.suspects) - ROWS_NAMED) + max(0, len(finding.details) - DETAILS_NAMED)
            if left:
                lines.append(f"{INDENT}and {left:,} more (--json shows all)")
            lines.append(f"{INDENT}remedy: {finding.remedy}")
        counts = Counter(finding.severity for finding in self.findings)
        total = ", ".join(f"{counts[severity]} {severity}" for severity in SEVERITIES if counts[severity])
        return "\n".join([*map(wrapped, lines), "", f"findings: {total}" if total else "no findings"])


def examine(
    source: Source,
    kind: Kind,
    options: SplitOptions | None = None,
    *,
    checkpoint: str | None = None,
    limits: CheckpointLimits = CHECKPOINT_LIMITS,
    max_length: int = 128,
) -> Report:
    """Read a data set, skipping rows that cannot be used, and check it.

    Args:
        checkpoint: whose tokenizer counts tokens; None: words are counted.
        limits: limits on what the checkpoint's files say.
        max_length: length in tokens to which training would truncate texts.

    Raises:
        InputError: see `data.loading.read_labeled` and `models.processors.load_tokenizer`; or there is a checkpoint for
            images.
    """
    if checkpoint is not None and kind == "image":
        raise InputError(
            f"--model {checkpoint}: it counts the tokens of texts, and {source.path} holds images; leave it out"
        )
    data = read_labeled(replace(source, drop_bad_rows=True), kind, options or SplitOptions(), Notes())
    digests = tuple(digest for rows in data.rows.values() for digest in rows.digests)
    splits = {str(role): to_dataset(rows.table) for role, rows in data.rows.items()}
    examples = Examples(splits, data.labels, digests, data.targets.task)
    sample = examples.sample(MOST)
    if len(sample) < len(examples):
        logger.info("of %d rows, %d random ones are checked in detail", len(examples), len(sample))
    checks = CHECKS[examples.task]
    labels = checks.examine(examples)
    counts = labels.rows_by_split
    if source.sequence is not None:
        content, statistics = _examine_sequences(examples, sample, source.sequence)
    elif kind == "text":
        compared = examples.comparable(source.limits.compared_characters)
        if len(compared) < len(examples):
            logger.info(
                "%d of %d rows are compared: all have over %d characters (--data.limits.compared-characters)",
                *(len(compared), len(examples), source.limits.compared_characters),
            )
        content, statistics = _examine_texts(examples, sample, compared, checkpoint, limits, max_length)
    else:
        content, statistics = _examine_images(examples, sample)
    found = (*_unusable(data), *_unread(data, counts), *labels.findings, *content)
    findings = [finding for finding in found if finding.count and finding.name not in checks.unfit]
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    classes = {
        name: {split: int(rows[c]) for split, rows in counts.items()}
        for c, name in enumerate(data.labels if counts else ())
    }
    places = {str(role): split.place for role, split in data.selection.labeled.items()}
    return Report(examples, places, classes, {**statistics, **labels.statistics}, tuple(findings))


def _examine_texts(
    examples: Examples,
    sample: np.ndarray,
    compared: np.ndarray,
    checkpoint: str | None,
    limits: CheckpointLimits,
    max_length: int,
) -> tuple[list[Finding], Statistics]:
    tokenizer = None
    if checkpoint is not None:
        from hf_finetune.models.checkpoint import inspect_checkpoint
        from hf_finetune.models.processors import load_tokenizer

        local = inspect_checkpoint(checkpoint, need_weights=False, limits=limits)
        tokenizer = load_tokenizer(local, max_length=max_length, sample=examples.sides[0][:200])
    findings, statistics = examine_texts(examples, max_length=max_length, tokenizer=tokenizer, sample=sample)
    repeats = find_duplicates(examples, near_duplicate_texts(examples, compared))
    sample = np.intersect1d(sample, compared)
    begun = (examples.joined_text(i, " ")[:LONG_TEXT] for i in sample.tolist())
    words = mark_table(words_in(plain_words(text)) for text in begun)
    pairs = examine_pairs(examples) if len(examples.sides) == 2 else []
    telltales = _telltales(examples, *words, sample, marks="words")
    return [*findings, *pairs, *repeats, *telltales], statistics


def _examine_sequences(examples: Examples, sample: np.ndarray, kind: SequenceKind) -> tuple[list[Finding], Statistics]:
    findings, statistics = examine_sequences(examples, kind)
    # Copies by a few letters are not looked for: of shotgun reads most would be.
    repeats = find_duplicates(examples, [None] * len(examples))
    kmers = mark_table(kmers_of(examples, sample.tolist(), kind))
    telltales = _telltales(examples, *kmers, sample, marks=f"{KMER[kind]}-mers")
    return [*findings, *repeats, *telltales], statistics


def _examine_images(examples: Examples, sample: np.ndarray) -> tuple[list[Finding], Statistics]:
    facts = decode_images(examples)
    findings, statistics = examine_images(facts)
    repeats = find_duplicates(examples, near_duplicate_images(facts.thumbnails_NF, sample))
    sizes = mark_table(facts.sizes)
    everything = np.arange(len(examples))
    return [*findings, *repeats, *_telltales(examples, *sizes, everything, marks="sizes of images")], statistics


def _telltales(
    examples: Examples, has_NV: sparse.csr_array, words: Sequence[str], rows: np.ndarray, *, marks: str
) -> list[Finding]:
    """Return findings on words, or other marks, that predict a class or tag alone, where that is a finding."""
    if not CHECKS[examples.task].finds_telltales:
        return []
    return find_telltales(has_NV, words, examples.has_label_NC[rows], examples.names, marks=marks)


def _unusable(data: LabeledData) -> list[Finding]:
    """Return findings on rows that training would refuse, one for each column."""
    names = {"text": "text", "text_pair": "second text", "image": "image", "label": "label", "row": "form"}
    rows = sum(map(len, data.rows.values())) + sum(map(len, data.unusable.values()))
    findings = []
    for column, name in names.items():
        bad = [(split, row) for split, unusable in data.unusable.items() for row in unusable if row.column == column]
        details = [f"{split} row {row.row}{_line_or_file(row)}: {row.reason}" for split, row in bad]
        findings.append(diagnose("unusable", rows, name=f"unusable_{column}", details=details, column=name))
    return findings


def _unread(data: LabeledData, rows_C: dict[str, np.ndarray]) -> list[Finding]:
    """Return findings on files that are not read, and on labels that should be one.

    Args:
        rows_C: rows of each class or tag, by split.
    """
    skipped = sum((split.skipped for split in data.selection.labeled.values()), Counter[str]())
    files = [f"{count:,} {suffix}" for suffix, count in skipped.most_common()]
    groups, near = similar_labels(data.labels), near_labels(data.labels)
    counts = {name: sum(int(split[c]) for split in rows_C.values()) for c, name in enumerate(data.labels)}

    def with_rows(labels: Iterable[str]) -> str:
        return ", ".join(f"{label!r} ({counted(counts[label], 'row')})" for label in labels)

    return [
        diagnose("skipped_files", sum(map(len, data.rows.values())), count=skipped.total(), details=files),
        diagnose("similar_labels", len(data.labels), count=sum(map(len, groups)), details=list(map(with_rows, groups))),
        diagnose("near_labels", len(data.labels), count=len(near), details=list(map(with_rows, near))),
    ]


def _line_or_file(row: UnusableRow) -> str:
    if (line := re.search(r"\(line \d+\)$", row.place)) is not None:
        return f" {line[0]}"
    return "" if ", row " in row.place else f" ({row.place})"
