"""Doubts: what a reader of a result should know before relying on it, each with a remedy.

A doubt is no error: the run is finished, and its numbers are right. Each function looks at one reason.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from hf_finetune.data.truncation import Truncation
from hf_finetune.evaluation.differences import points
from hf_finetune.evaluation.intervals import Interval
from hf_finetune.evaluation.per_class import ClassScores
from hf_finetune.evaluation.report import PLURALS
from hf_finetune.utils.messages import counted, listed, plural

Name = Literal[
    "never_predicted",
    "never_right",
    "only_baseline_finds",
    "missing_class",
    "few_rows",
    "no_better_than_baseline",
    "worse_than_baseline",
    "worse_than_start",
    "truncated",
    "trained_on",
]
RARE = 0.2
"""A class is rare below this share of the rows of the most frequent one."""
FEW_ROWS = 20
"""With fewer training rows than these, no weight of a class makes up for the missing ones."""
ENOUGH_ROWS = 10
"""Scored rows of a class, none of which is right, from which that is no chance: it is one of .03 at a recall of .3."""
WIDEST = 0.03
"""Half the width of the 95% interval, above which rows are too few to judge a model by."""
WIDEST_OF_CHOICE = 0.05
"""The same for rows that only choose the epoch. Epochs are compared on the same rows, so the interval of their
difference is narrower than that of a metric. Where they are within it, it matters little which one is chosen."""
WEIGHTS = "--objective.class-weights Balanced"
TRUNCATED = 0.01
"""Share of truncated texts that is worth a doubt."""


@dataclass(frozen=True)
class Doubt:
    """A reason not to take a result at face value."""

    name: Name
    message: str
    """What is doubtful, with its numbers."""
    remedy: str
    """What to do about it; flags are those of this package."""

    def to_dict(self) -> dict[str, str]:
        """Return the entry of `doubts` in result.json."""
        return asdict(self)


@dataclass(frozen=True)
class Training:
    """What a classifier was trained with, as far as remedies name it."""

    rows_per_class: Mapping[str, int]
    """Training rows by label, or words or entities."""
    epochs: float
    weighted: bool = False
    """Whether rare classes weigh more already, by class weights or sampling."""
    weights: str | None = WEIGHTS
    """The flags that make rare classes weigh more; None: there are none."""
    rows: int | None = None
    """All training rows. None: the sum over the classes, of which a row has one."""


def unrecognized(
    splits: Mapping[str, Sequence[ClassScores]],
    training: Training | None = None,
    *,
    weights: str | None = WEIGHTS,
    noun: str = "row",
) -> tuple[Doubt, ...]:
    """Return a doubt about the classes that have rows and are predicted for no row of any split, and one about those
    that are predicted for other rows only.

    Args:
        splits: the scores of each class, in the same order, by split.
        training: None: unknown.
        weights: as in `Training`, where that is unknown.
        noun: what has a class, see `Task.counted`.
    """
    many, where = PLURALS[noun], " and ".join(splits)
    never, wrong, mistaken = dict[str, int](), dict[str, int](), 0
    for of_class in zip(*splits.values(), strict=True):
        label, support = of_class[0].label, sum(each.support for each in of_class)
        predicted = sum(each.predicted for each in of_class)
        is_found = any(each.recall is not None and each.recall.value for each in of_class)
        if is_found or not support or (training is not None and not training.rows_per_class.get(label, 0)):
            continue
        if not predicted:
            never[label] = support
        elif support >= ENOUGH_ROWS:
            wrong[label], mistaken = support, mistaken + predicted
    doubts = []
    if never:
        message = _never_predicted(never, f"{where} {many}")
        doubts.append(_unrecognized("never_predicted", message, never, training, weights, many))
    if wrong:
        message = _never_right(wrong, mistaken, where, many)
        doubts.append(_unrecognized("never_right", message, wrong, training, weights, many))
    return tuple(doubts)


def _never_predicted(rows: Mapping[str, int], many: str) -> str:
    are, them, total = plural(len(rows), "is", "are"), plural(len(rows), "it", "them"), sum(rows.values())
    return f"{_named(rows)} {are} never predicted: 0 of {total:,} {many} of {them} are recognized"


def _never_right(rows: Mapping[str, int], mistaken: int, where: str, many: str) -> str:
    are, them, total = plural(len(rows), "is", "are"), plural(len(rows), "it", "them"), sum(rows.values())
    return (
        f"{_named(rows)} {are} predicted for {mistaken:,} {many} of other classes, and for 0 of {total:,} "
        f"{where} {many} of {them}"
    )


def _unrecognized(
    name: Name, message: str, labels: Iterable[str], training: Training | None, weights: str | None, many: str
) -> Doubt:
    """Return a doubt about classes with their training rows, if these are known, and the remedy for that."""
    if training is None:
        how = f"with {weights}, " if weights else ""
        return Doubt(name, message, f"train {how}for more --epochs, or with more such {many}")
    counts = [training.rows_per_class[label] for label in labels]
    largest, most = max(training.rows_per_class.items(), key=lambda item: item[1])
    all_rows = sum(training.rows_per_class.values()) if training.rows is None else training.rows
    message += (
        f"; {plural(len(counts), 'it has', 'they have')} {listed([f'{count:,}' for count in counts])} of "
        f"{all_rows:,} training {many}, {_quoted(largest)} has {most:,}"
    )
    return Doubt(name, message, _learn_rare(min(counts), most, training))


def _learn_rare(fewest: int, most: int, training: Training) -> str:
    longer = f"more --epochs (now {training.epochs:g}) or a higher --train.learning-rate"
    if fewest >= RARE * most or training.weighted:
        return f"{longer}; `hf-finetune doctor` names rows whose labels are in doubt"
    more_rows = "label more rows of such classes, or merge them with others"
    weights = [] if training.weights is None else [training.weights]
    remedies = [more_rows, *weights, longer] if fewest < FEW_ROWS else [*weights, longer, f"or {more_rows}"]
    return "; ".join(remedies)


def missing_classes(
    split: str, scores: Sequence[ClassScores], metrics: Mapping[str, Interval], *, remedy: str, noun: str = "row"
) -> tuple[Doubt, ...]:
    """Return a doubt about the classes without rows in a split.

    Args:
        scores: of each class in this split.
        metrics: of this split; those that are means over fewer classes are named.
        noun: what has a class, see `Task.counted`.
    """
    missing = [each.label for each in scores if each.support == 0]
    if not missing:
        return ()
    means = [
        f"{name} is a mean over {value.classes[0]} of {value.classes[1]} classes"
        for name, value in metrics.items()
        if value.classes is not None
    ]
    # Tags have no roc_auc in any case.
    area = ["roc_auc is not defined"] if "balanced_accuracy" in metrics and "roc_auc" not in metrics else []
    names = listed([_quoted(label) for label in missing])
    message = (
        f"no {split} {noun} is of {names}: nothing is known about recognizing {plural(len(missing), 'it', 'them')}"
    )
    consequences = ", ".join([*means, *area])
    return (Doubt("missing_class", f"{message}; {consequences}" if consequences else message, remedy),)


MORE_TIME = "a larger --budget, with which more of the rows are scored"
"""The remedy where a part of them was drawn."""


def few_rows(
    split: str, metric: str, interval: Interval, *, purpose: str, remedy: str, widest: float = WIDEST
) -> tuple[Doubt, ...]:
    """Return a doubt if the interval of a metric is wider than `widest` to either side.

    Args:
        metric: name of a share, such as accuracy.
        purpose: what the rows are too few for: `to choose epochs and settings by`.
        remedy: format with `{rows}`, the rows that would do, as the width shrinks with the root of their number.
    """
    half = (interval.high - interval.low) / 2
    if half <= widest:
        return ()
    needed = math.ceil(interval.n * (half / widest) ** 2)
    message = (
        f"{counted(interval.n, f'{split} row is', f'{split} rows are')} few {purpose}: {metric} {interval.value:.3f} "
        f"has a 95% interval of ±{half:.3f}; about {needed:,} rows give ±{widest:g}"
    )
    return (Doubt("few_rows", message, remedy.format(rows=f"{needed:,}")),)


def baseline_doubts(baselines: Mapping[str, Mapping[str, Any]], *, remedy: str) -> tuple[Doubt, ...]:
    """Return a doubt for each baseline that the model does not beat by the paired test, and for each that finds classes
    which the model never predicts.

    Args:
        baselines: the section of result.json.
    """
    doubts = []
    for key, baseline in baselines.items():
        difference, title = baseline["difference"], key
        if key != baseline["name"]:
            title = f"{key} baseline ({baseline['name']})"
        if alone := baseline.get("finds_alone"):
            doubts.append(_only_baseline_finds(title, alone))
        if difference["verdict"] == "better":
            continue
        worse = difference["verdict"] == "worse"
        message = (
            f"{'worse than' if worse else 'not shown to be better than'} the {title}: {points(difference)} on the same "
            f"{counted(difference['n'], 'row')}"
        )
        doubts.append(Doubt("worse_than_baseline" if worse else "no_better_than_baseline", message, remedy))
    return tuple(doubts)


def _only_baseline_finds(title: str, alone: Mapping[str, Mapping[str, int]]) -> Doubt:
    shown = listed([f"{_quoted(label)} ({each['right']:,} of {each['rows']:,})" for label, each in alone.items()])
    message = f"the {title} finds what this model never predicts: {shown}"
    return Doubt("only_baseline_finds", message, "label more such rows, or take that model: --method classical")


def start_doubts(gain: Mapping[str, Any] | None) -> tuple[Doubt, ...]:
    """Return a doubt if training made the model worse than its fitted head.

    Args:
        gain: paired difference, trained minus start. None: there was no fitted head.
    """
    if gain is None or gain["verdict"] != "worse":
        return ()
    message = (
        f"training made the model worse: {points(gain)} on {counted(gain['n'], 'validation row')}; the weights are "
        "those of before the first step, the pretrained network with a fitted head"
    )
    return (Doubt("worse_than_start", message, "a lower --train.learning-rate, more rows, or --method head"),)


def leaked_rows(count: int, rows: int) -> tuple[Doubt, ...]:
    """Return a doubt if some of the scored rows are training rows."""
    if not count:
        return ()
    are = plural(count, "is a training row", "are training rows")
    message = f"{count:,} of these {rows:,} rows {are}: the metrics are too good"
    return (Doubt("trained_on", message, "score rows that the model was not trained on"),)


def truncation_doubts(truncation: Truncation | None, texts: str = "training texts") -> tuple[Doubt, ...]:
    """Return a doubt if more than `TRUNCATED` of the texts are cut off.

    Args:
        truncation: None: the rows are images.
        texts: what is cut off.
    """
    if truncation is None or truncation.share <= TRUNCATED:
        return ()
    message = f"{truncation.share:.1%} of the {texts} are cut off at {truncation.max_length} tokens"
    longer = truncation.length > truncation.max_length
    remedy = (
        f"{truncation.proposal}{truncation.alternative}"
        if longer
        else f"{truncation.proposal}: choose one that reads more by --model, or shorten the texts to what matters"
        f"{truncation.alternative}"
    )
    return (Doubt("truncated", message, remedy),)


def _named(labels: Iterable[str]) -> str:
    return listed([_quoted(label) for label in labels])


def _quoted(label: str) -> str:
    return f"'{label}'"
