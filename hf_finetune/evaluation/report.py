"""Results as plain text: tables of metrics and of classes, and the most confused classes."""

import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_finetune.evaluation.metrics import METRICS, class_ids
from hf_finetune.utils.messages import cut


@dataclass(frozen=True)
class Confusion:
    """Rows of one class that are predicted as another."""

    label: str
    predicted: str
    count: int
    support: int
    """Rows of the class `label`."""


def comparison_table(rows: Sequence[Mapping[str, Any]], *, metrics: Sequence[str] | None = None) -> str:
    """Format one line per model: its name, then each metric with its interval, aligned.

    Args:
        rows: {"name": "this model", "accuracy": {"value", "low", "high", "n"}, ...}, metrics as in result.json; a
            missing metric is left blank.
        metrics: names and order of the metrics; None: all, in the order of their first appearance.
    """
    if metrics is None:
        metrics = list(dict.fromkeys(name for row in rows for name in row if name != "name"))
    columns = [[str(row["name"]) for row in rows]]
    for metric in metrics:
        present = [row[metric] for row in rows if metric in row]
        # A negative lower bound is wider by its sign.
        width = max((len(f"{number:.3f}") for cell in present for number in _numbers(cell)), default=0)
        columns.append([_cell(metric, row.get(metric), width) for row in rows])
    widths = [max(map(len, column), default=0) for column in columns]
    padded = [[cell.ljust(width) for cell in column] for column, width in zip(columns, widths, strict=True)]
    return "\n".join("   ".join(line).rstrip() for line in zip(*padded, strict=True))


def worst_classes(scores: Mapping[str, Mapping[str, Any]], most: int | None = None) -> list[str]:
    """Return the labels of the classes with the lowest F1, lowest first; ties in their order.

    Args:
        scores: a split of `per_class` in result.json. Classes that neither occur nor are predicted come last.
        most: largest number of labels. None: all.
    """

    def by_f1(label: str) -> float:
        f1 = scores[label]["f1"]
        return 2.0 if f1 is None else float(f1["value"])

    return sorted(scores, key=by_f1)[:most]


def per_class_table(scores: Mapping[str, Mapping[str, Any]], *, most: int = 10, width: int | None = None) -> str:
    """Format one line per class with precision, recall and F1, their intervals, and the rows; the lowest F1 first.

    A score that is not defined is a dash: precision of a class that is never predicted, recall of one without rows.

    Args:
        scores: a split of `per_class` in result.json.
        most: largest number of classes; a last line counts the others.
        width: largest width in characters, for which labels are cut. None: that of the terminal, else 80.
    """
    width = shutil.get_terminal_size().columns if width is None else width
    names = ("precision", "recall", "f1")
    shown = worst_classes(scores, most)
    header = ("class", *names, "rows")
    lines: list[tuple[str, ...]] = [header]
    for label in shown:
        entry = scores[label]
        lines.append((" ".join(label.split()), *(_short_cell(entry[name]) for name in names), f"{entry['support']:,}"))
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    widths[0] = max(8, min(widths[0], width - sum(widths[1:]) - 2 * len(names) - 2))
    text = [
        "  ".join((cut(label, widths[0]).ljust(widths[0]), *map(str.ljust, cells, widths[1:4]), rows.rjust(widths[4])))
        for label, *cells, rows in lines
    ]
    if others := len(scores) - len(shown):
        text.append(f"... and {others:,} {'class' if others == 1 else 'classes'} with a higher F1")
    return "\n".join(text)


def doubts_text(doubts: Sequence[Mapping[str, str]], *, width: int | None = None) -> str:
    """Format doubts as a list, each with its remedy; empty without doubts.

    Args:
        doubts: the section of result.json.
        width: of the lines. None: that of the terminal, else 80.
    """
    width = shutil.get_terminal_size().columns if width is None else width
    lines = ["doubts"] if doubts else []
    for doubt in doubts:
        for text, first in ((doubt["message"], "- "), (f"remedy: {doubt['remedy']}", "  ")):
            lines += textwrap.wrap(text, width, initial_indent=first, subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(lines)


def confusion(labels: Any, predicted: Any, names: Sequence[str], *, most: int = 5) -> tuple[Confusion, ...]:
    """Return the pairs of classes with the most wrong rows, in falling order; ties by class id.

    Args:
        labels: true class ids, shape (N,).
        predicted: predicted class ids, shape (N,).
        names: class names, in the order of the class ids.
        most: largest number of pairs.

    Raises:
        InputError: no rows, ids that are no integers, or ids without a name.
    """
    labels = class_ids(labels, name="labels", num_labels=len(names))
    predicted = class_ids(predicted, name="predictions", num_labels=len(names))
    support = np.bincount(labels, minlength=len(names))
    wrong = labels != predicted
    pairs, counts = np.unique(labels[wrong] * len(names) + predicted[wrong], return_counts=True)
    first = np.argsort(-counts, kind="stable")[:most]
    return tuple(
        Confusion(names[pair // len(names)], names[pair % len(names)], int(count), int(support[pair // len(names)]))
        for pair, count in zip(pairs[first], counts[first], strict=True)
    )


def _numbers(interval: Mapping[str, float]) -> tuple[float, float, float]:
    return interval["value"], interval["low"], interval["high"]


def _cell(metric: str, interval: Mapping[str, float] | None, width: int) -> str:
    if interval is None:
        return ""
    value, low, high = (f"{number:{width}.3f}" for number in _numbers(interval))
    return f"{metric} {value} [{low}, {high}]{averaged(interval)}"


def extra_names(metrics: Mapping[str, Any]) -> list[str]:
    """Return the names of the metrics of evaluate.extra among those of a split in result.json."""
    return [name for name in metrics if name not in METRICS]


def averaged(interval: Mapping[str, Any]) -> str:
    """Return how many of the classes a mean leaves out as ` over 2 of 3 classes`, or an empty string."""
    return " over {} of {} classes".format(*interval["classes"]) if interval.get("classes") else ""


def _short_cell(interval: Mapping[str, float] | None) -> str:
    """Return a value with bounds of two digits, so that three of them and a label fit a line of 80 characters."""
    if interval is None:
        return "-"
    value, low, high = _numbers(interval)
    return "{:.3f} [{}, {}]".format(value, *("1.0" if x >= 0.995 else f"{x:.2f}"[1:] for x in (low, high)))
