"""What is checked of the labels of each task.

Legend: N rows, C classes, tags or targets.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from hf_finetune.data.config import TaskName
from hf_finetune.doctor.classes import count_classes, examine_balance
from hf_finetune.doctor.examples import Examples
from hf_finetune.doctor.findings import Finding
from hf_finetune.doctor.numbers import examine_numbers, statistics_of
from hf_finetune.doctor.tags import examine_tags
from hf_finetune.doctor.texts import Statistics
from hf_finetune.doctor.words import examine_words
from hf_finetune.features.taggers import sentences_of


@dataclass(frozen=True)
class LabelFacts:
    """Contents and findings of the labels of a data set."""

    findings: list[Finding]
    rows_by_split: dict[str, np.ndarray] = field(default_factory=dict)
    """Rows of each class or tag, shape (C,), by split; none for numbers."""
    statistics: Statistics = field(default_factory=dict)
    """Statistics of numbers."""


class ClassChecks:
    """The checks of one class a row."""

    noun: ClassVar[str] = "class"
    nouns: ClassVar[str] = "classes"
    finds_telltales: ClassVar[bool] = True
    """Whether it is a finding that a word, or another mark, predicts a label alone."""
    unfit: ClassVar[tuple[str, ...]] = ()
    """Findings that mean nothing with such labels."""

    def examine(self, examples: Examples) -> LabelFacts:
        """Check the labels of all splits."""
        counts = count_classes(examples)
        findings = [*examine_balance(examples.names, counts, self.nouns), *self.further_findings(examples)]
        return LabelFacts(findings, counts)

    def further_findings(self, examples: Examples) -> list[Finding]:
        """Return findings beside those on the sizes of the classes."""
        return []


class LevelChecks(ClassChecks):
    """The checks of ordered classes."""

    noun, nouns = "level", "levels"


class TagChecks(ClassChecks):
    """The checks of any number of tags a row."""

    noun, nouns = "tag", "tags"

    def further_findings(self, examples: Examples) -> list[Finding]:
        """Return findings on how tags occur together."""
        return examine_tags(examples.labels[examples.split_N == 0], examples.names)


class WordTagChecks(ClassChecks):
    """The checks of a tag for each word. In most cases a word tells its tag."""

    noun, nouns = "tag", "tags"
    finds_telltales = False
    # Common tags are common words, long texts become windows, and a sentence may have one word.
    unfit = ("uneven_classes", "cut_off", "very_short")

    def further_findings(self, examples: Examples) -> list[Finding]:
        """Return findings on impossible tags, and on words with many."""
        sentences = [words for rows in examples.splits.values() for words in sentences_of(rows)]
        return examine_words(examples.labels, sentences, examples.names)


class NumberChecks(ClassChecks):
    """The checks of numbers."""

    noun, nouns = "target", "targets"
    finds_telltales = False

    def examine(self, examples: Examples) -> LabelFacts:
        """Check the numbers of each target."""
        trained_N = examples.split_N == 0
        targets = list(zip(examples.names, examples.labels.T, strict=True))
        findings = [finding for name, numbers_N in targets for finding in examine_numbers(numbers_N, trained_N, name)]
        statistics: Statistics = {name: statistics_of(numbers_N[trained_N]) for name, numbers_N in targets}
        return LabelFacts(findings, statistics=statistics)


CHECKS: dict[TaskName, ClassChecks] = {
    "single-label": ClassChecks(),
    "ordinal": LevelChecks(),
    "multi-label": TagChecks(),
    "regression": NumberChecks(),
    "tokens": WordTagChecks(),
}
