"""Results as plain text: tables of metrics and of classes, and the most confused classes."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from hf_finetune.evaluation.metric_tables import METRICS
from hf_finetune.evaluation.metrics import class_ids
from hf_finetune.utils.console import line_width, table, wrapped
from hf_finetune.utils.messages import counted

PLURALS = {"class": "classes", "tag": "tags", "entity": "entities", "row": "rows", "word": "words"}
"""What `per_class` has scores of and what it counts, see `Task.per_class_noun` and `Task.counted`, by one of them."""


@dataclass(frozen=True)
class Confusion:
    """Rows of one class that are predicted as another."""

    label: str
    predicted: str
    count: int
    support: int
    """Rows of the class `label`."""


def comparison_table(
    models: Sequence[Mapping[str, Any]],
    *,
    metrics: Sequence[str] | None = None,
    noun: str = "class",
    width: int | None = None,
) -> str:
    """Format one line per metric, with a column for each model; models that do not fit go into a table below.

    Args:
        models: {"name": "this model", "accuracy": {"value", "low", "high", "n"}, ...}, metrics as in result.json; a
            missing metric is left blank.
        metrics: names and order of the metrics; None: all, in the order of their first appearance.
        noun: what means are over, see `PLURALS`.
        width: of a line. None: that of the terminal, else 80.
    """
    if metrics is None:
        metrics = list(dict.fromkeys(name for model in models for name in model if name != "name"))
    width = line_width() if width is None else width
    columns = [[str(model["name"]), *(_cell(model.get(metric)) for metric in metrics)] for model in models]
    names, tables = ["", *metrics], []
    while columns:
        count = next((n for n in range(len(columns), 1, -1) if _total_width([names, *columns[:n]]) <= width), 1)
        lines = list(zip(names, *columns[:count], strict=True))
        tables.append(table(lines, right=range(1, count + 1), width=width))
        columns = columns[count:]
    left_out = {
        metric: averaged(model[metric], PLURALS[noun]) for model in models for metric in metrics if metric in model
    }
    return "\n".join([*tables, *(f"{metric}: a mean{classes}" for metric, classes in left_out.items() if classes)])


def _total_width(columns: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) for column in columns) + 2 * (len(columns) - 1)


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


def per_class_table(
    scores: Mapping[str, Mapping[str, Any]],
    *,
    noun: str = "class",
    counted_as: str = "row",
    most: int = 10,
    width: int | None = None,
) -> str:
    """Format one line per class with precision, recall and F1, their intervals, and the rows; the lowest F1 first.

    A score that is not defined is a dash: precision of a class that is never predicted, recall of one without rows.

    Args:
        scores: a split of `per_class` in result.json.
        noun: what they are of, see `PLURALS`.
        counted_as: what is counted, see `Task.counted`.
        most: largest number of classes; a last line counts the others.
        width: largest width in characters, for which labels are cut. None: that of the terminal, else 80.
    """
    names = ("precision", "recall", "f1")
    shown = worst_classes(scores, most)
    lines: list[tuple[str, ...]] = [(noun, *names, PLURALS[counted_as])]
    for label in shown:
        entry = scores[label]
        lines.append((label, *(_short_cell(entry[name]) for name in names), f"{entry['support']:,}"))
    text = [table(lines, right=[len(names) + 1], width=width)]
    if others := len(scores) - len(shown):
        text.append(f"... and {counted(others, noun, PLURALS[noun])} with a higher F1")
    return "\n".join(text)


def per_target_table(scores: Mapping[str, Mapping[str, Any]], *, most: int = 20, width: int | None = None) -> str:
    """Format one line per metric, with a column for each target; targets that do not fit go into a table below.

    Args:
        scores: a split of `per_target` in result.json.
        most: largest number of targets; a last line counts the others.
        width: see `comparison_table`.
    """
    models = [{"name": name, **metrics} for name, metrics in [*scores.items()][:most]]
    others = f"\n... and {len(scores) - most:,} more targets" if len(scores) > most else ""
    return comparison_table(models, width=width) + others


def rungs_table(rungs: Sequence[Mapping[str, Any]], metric: str, *, width: int | None = None) -> str:
    """Format the rungs of a climb in a table, with why each was kept or left.

    Args:
        rungs: the section of result.json.
        metric: the one that judges.
        width: of a line, in which the reasons are wrapped. None: that of the terminal, else 80.
    """
    width = line_width() if width is None else width
    judged_on = "out of fold" if any(rung.get("out_of_fold") for rung in rungs) else "validation"
    lines = [("rung", f"{metric} ({judged_on})", "seconds")]
    for rung in rungs:
        seconds = "" if rung["folder"] is None else f"{rung['seconds']:.0f}"
        lines.append((rung["title"] or rung["name"], _cell(rung["metrics"].get(metric)), seconds))
    room = width - sum(max(map(len, column)) + 2 for column in zip(*lines, strict=True))
    wrapped = [[*lines[0], ""]]
    for line, rung in zip(lines[1:], rungs, strict=True):
        reason, *more = textwrap.wrap(rung["reason"], max(room, 20))
        wrapped += [[*line, reason], *(["", "", "", part] for part in more)]
    return table(wrapped, right=(1, 2), width=width)


def candidates_table(ranking: Mapping[str, Any]) -> str:
    """Format checkpoints that were ranked by probes, the best first, and which one was chosen.

    Args:
        ranking: the section of result.json.
    """
    metric = ranking["metric"]
    lines = [("checkpoint", f"{metric} (probe)", "LogME", "seconds")]
    for each in ranking["checkpoints"]:
        row = _cell(each[metric]), f"{each['log_evidence']:.3f}", f"{each['seconds']:.1f}"
        lines.append((PurePath(each["checkpoint"]).name, *row))
    title = f"probes on frozen features of {counted(ranking['rows'], 'training row')}, cross-validated"
    return f"{title}\n{table(lines, right=(1, 2, 3))}\n{wrapped(ranking['reason'], indent=0)}"


def doubts_text(doubts: Sequence[Mapping[str, str]], *, width: int | None = None) -> str:
    """Format doubts as a list, each with its remedy; empty without doubts.

    Args:
        doubts: the section of result.json.
        width: of the lines. None: that of the terminal, else 80.
    """
    width = line_width() if width is None else width
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


def _cell(interval: Mapping[str, float] | None) -> str:
    return "" if interval is None else "{:z.3f} [{:z.3f}, {:z.3f}]".format(*_numbers(interval))


def extra_names(metrics: Mapping[str, Any]) -> list[str]:
    """Return the names of the metrics of evaluate.extra among those of a split in result.json."""
    return [name for name in metrics if name not in METRICS]


def averaged(interval: Mapping[str, Any], outputs: str = "classes") -> str:
    """Return how many of the classes a mean leaves out as ` over 2 of 3 classes`, or an empty string."""
    return " over {} of {} {}".format(*interval["classes"], outputs) if interval.get("classes") else ""


def _short_cell(interval: Mapping[str, float] | None) -> str:
    """Return a value with bounds of two digits, so that three of them and a label fit a line of 80 characters."""
    if interval is None:
        return "-"
    value, low, high = _numbers(interval)
    return "{:.3f} [{}, {}]".format(value, *("1.0" if x >= 0.995 else f"{x:.2f}"[1:] for x in (low, high)))
