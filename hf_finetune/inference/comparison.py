"""Compare runs on the rows that all of them have predicted, by their predictions.parquet.

Legend: N shared rows, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_finetune.errors import InputError
from hf_finetune.evaluation.paired import corrected, mcnemar, verdict
from hf_finetune.hub.run_facts import read_documents
from hf_finetune.tasks.base import Task
from hf_finetune.tasks.choose import task_kind
from hf_finetune.utils.console import table
from hf_finetune.utils.messages import counted, cut, short

FILE = "predictions.parquet"
RESAMPLES, SEED = 10_000, 0
SHOWN, MOST_CHARACTERS = 10, 24
"""Changed rows that the table shows, and characters of a label there."""
LONGEST_NAME = 8
"""Characters of a run's name for which 80 columns have room; longer ones stand above the tables, with a number."""


@dataclass(frozen=True)
class RunPredictions:
    """What a run predicts for the rows of a split."""

    name: str
    """The run's folder, as it was named."""
    task: Task
    result: Mapping[str, Any]
    columns: Mapping[str, Sequence[Any]]
    """row, label and predicted."""


@dataclass(frozen=True)
class Comparison:
    """Runs on the same rows, each compared with the first. It prints as a table."""

    document: Mapping[str, Any]
    """`split`, `rows`, `metric`, `runs` (name, value, and for all but the first: difference, verdict, counts of changed
    rows, and for classes `mcnemar` and `bootstrap`), `changed`."""

    def to_dict(self) -> dict[str, Any]:
        """Return the content, for JSON."""
        return dict(self.document)

    def __str__(self) -> str:
        runs, metric = self.document["runs"], self.document["metric"]
        names, parts = [run["name"] for run in runs], []
        if max(map(len, names)) > LONGEST_NAME:
            parts = ["\n".join(f"{number}  {name}" for number, name in enumerate(names, 1))]
            names = [str(number) for number in range(1, len(runs) + 1)]
        lines = [["", metric, "difference", "McNemar", "verdict", "rows won", "lost"]]
        for name, run in zip(names, runs, strict=True):
            line = [name, f"{run['value']:.3f}"]
            if "difference" in run:
                difference = run["difference"]
                p = f"p = {run['mcnemar']:.2g}" if "mcnemar" in run else ""
                interval = f"{difference['value']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]"
                line += [interval, p, run["verdict"], *(f"{run.get(n, '')}" for n in ("won", "lost"))]
            lines.append([*line, *[""] * (len(lines[0]) - len(line))])
        many = f", corrected for {len(runs) - 1} comparisons" if len(runs) > 2 else ""
        title = f"{counted(self.document['rows'], 'shared row')} of the {self.document['split']} split"
        parts.append(
            f"{title}; differences to the first run, 95% intervals{many}\n{table(lines, right=(1, 2, 3, 5, 6))}"
        )
        if changed := self.document["changed"]:
            shown = [["row", "label", *names]]
            shown += [[str(c["row"]), *map(_cell, (c["label"], *c["predicted"]))] for c in changed[:SHOWN]]
            more = f"\n... and {len(changed) - SHOWN:,} more changed rows (--json)" if len(changed) > SHOWN else ""
            parts.append(f"changed predictions\n{table(shown)}{more}")
        return "\n\n".join(parts)

    __repr__ = __str__


def _cell(value: Any) -> str:
    return cut(" ".join(map(str, value)) if isinstance(value, list) else f"{value}", MOST_CHARACTERS)


def compare_runs(*runs: str | Path, split: str | None = None) -> Comparison:
    """Compare finished runs on the rows that all of them have predicted: each with the first, paired by row.

    Args:
        runs: folders of two or more runs on the same data.
        split: test or validation. None: test, if all runs have it.

    Returns:
        The metric that judges the task, its paired differences with their verdicts (corrected for the number of
        comparisons), for classes also McNemar's exact test and a paired bootstrap, and the rows whose predictions
        differ.

    Examples:
        >>> comparison = compare_runs("runs/reviews", "runs/reviews")
        >>> comparison.to_dict()["runs"][1]["verdict"]
        'undecided'

    Raises:
        InputError: fewer than two runs, a folder without predictions, or runs of other tasks or rows.
    """
    if len(runs) < 2:
        raise InputError(f"compare: expected two runs or more, got {len(runs)}; name their folders")
    folders = [Path(run).expanduser() for run in runs]
    documents = [read_documents(folder)[1] for folder in folders]
    names = [str(run) for run in runs]
    chosen = split or ("test" if all("test" in each["metrics"] for each in documents) else "validation")
    read = [_read(*each, split=chosen) for each in zip(names, folders, documents, strict=True)]
    rows = _shared_rows(read, chosen)
    return Comparison(_compared(read, rows, chosen))


def _read(name: str, folder: Path, result: Mapping[str, Any], *, split: str) -> RunPredictions:
    path, columns = folder / FILE, ["row", "label", "predicted"]
    if not path.exists():
        raise InputError(f"{path}: no such file; expected the folder of a run with its predictions")
    try:
        predictions = pq.read_table(path, columns=columns, filters=[("split", "==", split)])
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read ({type(error).__name__}); restore it, or train again") from None
    if not len(predictions):
        raise InputError(f"{path}: it has no rows of the split {split}; name another one by --split")
    kept = {column: predictions[column].to_pylist() for column in columns}
    return RunPredictions(name, task_kind(result)(tuple(result["labels"])), result, kept)


def _shared_rows(runs: Sequence[RunPredictions], split: str) -> list[int]:
    """Return the numbers of the rows that all runs have.

    Raises:
        InputError: the runs are of other tasks, share no rows, or these have other labels.
    """
    first = runs[0]
    labels = dict(zip(first.columns["row"], first.columns["label"], strict=True))
    rows = set(labels)
    for run in runs[1:]:
        if type(run.task) is not type(first.task) or {*run.task.labels} != {*first.task.labels}:
            raise InputError(f"{run.name}: it has other labels than {first.name}; compare runs on the same data")
        theirs = dict(zip(run.columns["row"], run.columns["label"], strict=True))
        rows &= theirs.keys()
        differing = next((row for row in sorted(rows) if theirs[row] != labels[row]), None)
        if differing is not None:
            raise InputError(
                f"{run.name}: row {differing} of the {split} split has the label {short(theirs[differing])}, and "
                f"{short(labels[differing])} in {first.name}; compare runs on the same data"
            )
    if not rows:
        raise InputError(f"{runs[1].name}: it shares no row of the {split} split with {first.name}")
    return sorted(rows)


def _compared(runs: Sequence[RunPredictions], rows: Sequence[int], split: str) -> dict[str, Any]:
    first, task = runs[0], runs[0].task
    predicted = [_at(run, rows, "predicted") for run in runs]
    label_names = _at(first, rows, "label")
    labels, scores = task.labels_of_names(label_names), [task.scores_of(each) for each in predicted]
    entries: list[dict[str, Any]] = []
    for run, names, scores_NC in zip(runs, predicted, scores, strict=True):
        entry: dict[str, Any] = {"name": run.name, "value": round(task.values(labels, scores_NC)[task.judged_by], 6)}
        if entries:
            difference = corrected(task.difference(labels, scores_NC, scores[0]), len(runs) - 1)
            entry |= {"difference": difference.to_dict(), "verdict": verdict(difference, margin=task.margin())}
            if task.has_classes:
                entry |= _of_classes(np.array(names) == label_names, np.array(predicted[0]) == label_names)
        entries.append(entry)
    changed = [
        {"row": row, "label": label, "predicted": list(each)}
        for row, label, *each in zip(rows, label_names, *predicted, strict=True)
        if any(one != each[0] for one in each)
    ]
    return {"split": split, "rows": len(rows), "metric": task.judged_by, "runs": entries, "changed": changed}


def _at(run: RunPredictions, rows: Sequence[int], column: str) -> list[Any]:
    by_row = dict(zip(run.columns["row"], run.columns[column], strict=True))
    return [by_row[row] for row in rows]


def _of_classes(mine_N: np.ndarray, first_N: np.ndarray) -> dict[str, Any]:
    """Return McNemar's test, a 95% interval of the difference of accuracies by the bootstrap, and the changed rows."""
    won, lost = int((mine_N & ~first_N).sum()), int((first_N & ~mine_N).sum())
    count = len(mine_N)
    shares = np.array([won, lost, count - won - lost]) / count
    drawn = np.random.default_rng(SEED).multinomial(count, shares, size=RESAMPLES)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / count, (0.025, 0.975))
    interval = {"value": (won - lost) / count, "low": float(low), "high": float(high), "n": count}
    return {"mcnemar": mcnemar(mine_N, first_N), "bootstrap": interval, "won": won, "lost": lost}
