"""The defects that the doctor knows, and its findings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hf_finetune.doctor.examples import Examples
from hf_finetune.utils.messages import plural

Severity = Literal["serious", "look", "note"]
SEVERITIES: tuple[Severity, ...] = ("serious", "look", "note")


@dataclass(frozen=True)
class Defect:
    """A kind of defect."""

    severity: Severity
    """serious: results mislead, or training learns something wrong. look: some rows should be checked. note: good to
    know."""
    summary: str
    """Format of the description: `{count}` of `{of}` rows `{have}` the defect. `{are}`, `{s}` of nouns and `{es}` of
    verbs go with the count, too."""
    remedy: str


DEFECTS = {
    "unusable": Defect(
        "serious",
        "the {column} of {count:,} of {of:,} rows cannot be used: training would refuse them",
        "correct or remove them, or train with --drop-bad-rows; they are ignored below",
    ),
    "skipped_files": Defect(
        "look",
        "{count:,} file{s} in the class folders {are} not read, {of:,} rows are",
        "convert them to a format that is read, or remove them",
    ),
    "similar_labels": Defect(
        "serious",
        "{count} labels differ only in case or white space, and each counts as another one",
        "write each of them in one way",
    ),
    "near_labels": Defect(
        "look",
        "{count} pair{s} of labels differ{es} by one letter, which may be a typing error or a plural",
        "if both mean the same, write it in one way in every row; each is another label now",
    ),
    "leaked": Defect(
        "serious",
        "{count:,} of {of:,} evaluation rows {are} in train, too, as exact copies: metrics on them are too good",
        "remove them from train, or from the evaluation rows",
    ),
    "conflicts": Defect(
        "serious",
        "the {input} of {count:,} of {of:,} rows occurs with another label as well",
        "decide on one label, or remove them: no model can predict both",
    ),
    "near_leaked": Defect(
        "serious",
        "{count:,} of {of:,} evaluation rows {have} {alike} as a row of train{otherwise}",
        "remove one of the two: metrics on such rows are too good",
    ),
    "duplicates": Defect(
        "look",
        "{count:,} of {of:,} training rows repeat{es} an earlier one exactly",
        "keep one of each, unless repetition is a deliberate weight",
    ),
    "near_duplicates": Defect(
        "look",
        "{count:,} of {of:,} training rows {have} {alike} as an earlier one{otherwise}",
        "keep one of each; where their labels differ, decide on one",
    ),
    "equal_pairs": Defect(
        "look",
        "{count:,} of {of:,} pairs hold the same text twice",
        "correct or remove them, unless equal texts are a case of their own",
    ),
    "swapped_pairs": Defect(
        "look",
        "{count:,} of {of:,} pairs occur in the other order as well",
        "if the order means nothing, keep one of each, with one label, in one split, and train with SwapPair",
    ),
    "few_rows": Defect(
        "look",
        "{count} of {of} {noun} {have} fewer than {limit} training rows",
        "label more rows of them, or merge them with others",
    ),
    "missing_classes": Defect(
        "look",
        "{noun} without rows in a split, where they cannot be evaluated",
        "move or label rows, so that every split has all of them",
    ),
    "uneven_classes": Defect(
        "note",
        "{largest} has {most:,} training rows, {smallest} {least:,}",
        "evaluate by macro F1; try class weights (--objective.class-weights) or --batching.sampling",
    ),
    "telltales": Defect(
        "note",
        "{marks} that almost predict a class alone: {count}",
        "check whether they are artifacts of how the data were collected; if so, remove them",
    ),
    "tags_together": Defect(
        "look",
        "{count} pair{s} of tags always occur{es} together",
        "merge them, or remove one of the two: no row tells them apart",
    ),
    "tags_everywhere": Defect(
        "look",
        "{count} of {of} tags {are} on every training row",
        "remove them: there is nothing to learn about them",
    ),
    "tags_never_alone": Defect(
        "note",
        "{count} of {of} tags never occur{es} alone",
        "check whether they follow from others: a tag that always comes with another may be learned from that one",
    ),
    "without_tags": Defect(
        "note",
        "{count:,} of {of:,} training rows {have} no tag",
        "check that no tag fits them; rows that nobody has tagged teach that all tags are absent: leave them out",
    ),
    "outliers": Defect(
        "look",
        "{count:,} of {of:,} rows {have} a number far from the middle half of {target}, {low:g} to {high:g}",
        "correct them if they are errors; with --objective.loss Huber they count less",
    ),
    "one_value": Defect(
        "look",
        "{most:,} of {of:,} training rows have the number {value:g} in {target}",
        "check whether it stands for a missing number; if so, leave these rows out",
    ),
    "few_values": Defect(
        "note",
        "the {of:,} training rows have only {count} different numbers in {target}: {values}",
        "if they are classes, train with --task single-label; if these are ordered, with --task ordinal",
    ),
    "heavy_tails": Defect(
        "note",
        "{target} has heavy tails: a kurtosis of {kurtosis:.1f}, a normal distribution has 3",
        "predict their logarithm if they are positive and span orders of magnitude, or try --objective.loss Huber",
    ),
    "impossible_tags": Defect(
        "serious",
        "{count:,} of {of:,} rows {have} a tag that cannot follow the one before",
        "correct them: an I goes on within an entity that a B begins; where the tags are IOB1, convert them to BIO",
    ),
    "ambiguous_words": Defect(
        "note",
        "{count:,} of {of:,} words {have} many tags, none of them in most places",
        "check that they are tagged alike in like places; the model distinguishes them by their neighbors",
    ),
    "damaged_characters": Defect(
        "look",
        "{count:,} of {of:,} texts {have} damaged characters",
        "read the source again in its own encoding (--data.encoding), or repair the texts",
    ),
    "markup": Defect("look", "{count:,} of {of:,} texts hold{es} HTML", "strip tags and entities"),
    "only_urls": Defect(
        "look", "{count:,} of {of:,} texts {are} nothing but web addresses", "remove them, or fetch the text"
    ),
    "very_short": Defect(
        "note",
        "{count:,} of {of:,} texts {have} one word or none; half of the texts have {usual:g} words or more",
        "check whether they say anything about their class",
    ),
    "very_long": Defect(
        "note",
        "{count:,} of {of:,} texts {have} more than {limit:g} words; half of the texts have {usual:g} words or more",
        "check whether several texts were joined",
    ),
    "cut_off": Defect("note", "{count:,} of {of:,} texts {have} {more}", "raise --max-length if their ends matter"),
    "other_strands": Defect(
        "look",
        "{count:,} of {of:,} sequences are the reverse complement of an earlier one, the other strand of a piece",
        "keep both in one split, or remove one of the two",
    ),
    "ambiguous_letters": Defect(
        "look",
        "{count:,} of {of:,} sequences have more than {limit} ambiguous letters, such as N",
        "check whether they were masked or badly read",
    ),
    "odd_lengths": Defect(
        "note",
        "{count:,} of {of:,} sequences have less than half or more than twice the median of {usual:g} letters",
        "check whether the length tells the class; --max-length is in tokens",
    ),
    "one_colour": Defect(
        "look",
        "{count:,} of {of:,} images {are} of one color",
        "remove or replace them: they show nothing",
    ),
    "tiny_pictures": Defect(
        "look",
        "{count:,} of {of:,} images {are} tiny; half of all have {usual:g} pixels or more on the shorter side",
        "check whether they are thumbnails of others, or placeholders",
    ),
}


@dataclass(frozen=True)
class Suspect:
    """A row with a defect."""

    index: int
    """Index in the examples."""
    reason: str
    other: int | None = None
    """Index of the row that it repeats or contradicts."""


@dataclass(frozen=True)
class Finding:
    """A defect of a data set, and the rows that have it."""

    name: str
    severity: Severity
    summary: str
    remedy: str
    count: int
    """Number of rows, classes or words with the defect. 0: there is no such defect."""
    of: int
    """Number of rows, classes or words that were checked."""
    suspects: tuple[Suspect, ...] = ()
    """The rows, the worst first."""
    details: tuple[str, ...] = ()
    """Classes or words."""

    def to_dict(self, examples: Examples) -> dict[str, Any]:
        """Return the finding as JSON, with all rows."""

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
    """Return a finding of a known defect.

    Args:
        defect: key of `DEFECTS`.
        of: number of rows, classes or words that were checked.
        name: of the finding. Default: that of the defect.
        count: None: the number of suspects and details.
        severity: None: that of the defect.
        words: further fields of the summary's format.
    """
    kind = DEFECTS[defect]
    count = len(suspects) + len(details) if count is None else count
    forms = {"are": plural(count, "is", "are"), "have": plural(count, "has", "have")}
    forms |= {"s": plural(count, "", "s"), "es": plural(count, "s", "")}
    summary = kind.summary.format(count=count, of=of, **forms, **words)
    return Finding(
        name or defect, severity or kind.severity, summary, kind.remedy, count, of, tuple(suspects), tuple(details)
    )
