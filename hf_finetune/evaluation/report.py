"""Results as plain text: tables of metrics, and the most confused classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_finetune.evaluation.metrics import class_ids


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
    return f"{metric} {value} [{low}, {high}]"
