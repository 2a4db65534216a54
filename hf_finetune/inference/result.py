"""The result of a run or of an evaluation, as a typed view of result.json."""

from __future__ import annotations

import base64
import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Self

from hf_finetune.errors import InputError
from hf_finetune.evaluation.compression_report import compression_text
from hf_finetune.evaluation.intervals import Interval
from hf_finetune.evaluation.report import (
    PLURALS,
    candidates_table,
    comparison_table,
    doubts_text,
    extra_names,
    per_class_table,
    per_target_table,
    rungs_table,
    worst_classes,
)
from hf_finetune.hub import plots
from hf_finetune.inference.session import in_python
from hf_finetune.tasks.base import Task
from hf_finetune.tasks.choose import task_kind
from hf_finetune.utils.console import wrapped
from hf_finetune.utils.manifest import read_result
from hf_finetune.utils.messages import counted, did_you_mean, listed

Scores = dict[str, Interval]
MOST_SHOWN = 10
"""Classes in a notebook's summary, those with the lowest F1; it shows the others when they are opened."""
IMAGE_WIDTH = 480
"""Pixels of a plot in a notebook's summary."""


@dataclass(frozen=True)
class Plot:
    """A plot of a run. A notebook shows it.

    Examples:
        >>> clf.result.plots["confusion_matrix"].png.name
        'confusion_matrix.png'
    """

    title: str
    png: Path
    svg: Path

    def _repr_png_(self) -> bytes:
        return self.png.read_bytes()

    @property
    def html(self) -> str:
        """An HTML image that contains the plot."""
        content = base64.b64encode(self.png.read_bytes()).decode()
        return f'<img alt="{self.title}" width="{IMAGE_WIDTH}" src="data:image/png;base64,{content}">'


@dataclass(frozen=True, repr=False)
class Result:
    """What a run or an evaluation measured. It prints as a table, and as HTML in a notebook.

    The attributes are the sections of result.json; `result["metrics"]` reads a section as it is in the file. Results
    with equal content are equal.

    Examples:
        >>> result = clf.result
        >>> result.split, result.rows["test"], result.labels
        ('test', 40, ('bad', 'good'))
        >>> accuracy = result.metric("accuracy")
        >>> 0 <= accuracy.low <= accuracy.value <= accuracy.high <= 1
        True
        >>> result.metrics["validation"]["macro_f1"].n
        17
        >>> sorted(result.baselines), result.parity["reload"]["ok"]
        (['linear', 'majority'], True)
    """

    document: Mapping[str, Any]
    """The content of result.json."""
    folder: Path | None = field(default=None, compare=False)
    """The run's folder. None: the result of an evaluation."""

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """Read the result of a finished run.

        Examples:
            >>> Result.read("runs/reviews") == clf.result
            True

        Raises:
            InputError: the folder has no result.json, or it is damaged.
        """
        return cls(read_result(Path(folder).expanduser()), Path(folder).expanduser())

    @property
    def name(self) -> str:
        """Name of the run, or of the evaluated model."""
        return str(self.document.get("name", ""))

    @property
    def checkpoint(self) -> str | None:
        """The checkpoint that the run started from."""
        return self.document.get("checkpoint")

    @property
    def method(self) -> str | None:
        """What was trained: full, lora, top, head, or the type of another adapter."""
        return self.document.get("method")

    @property
    def seed(self) -> int | None:
        """The seed of the run."""
        return self.document.get("seed")

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in the order of the class ids."""
        return tuple(self.document.get("labels", ()))

    @property
    def rows(self) -> dict[str, int]:
        """Number of rows by split."""
        return dict(self.document.get("rows", {}))

    @property
    def split(self) -> str:
        """The split that the result is judged by: test, or validation without a test split."""
        splits = self.document.get("metrics", {})
        return next((name for name in ("test", "validation") if name in splits), next(iter(splits), "test"))

    @property
    def metrics(self) -> dict[str, Scores]:
        """Metrics with their 95% intervals, by split and name."""
        return {split: _scores(metrics) for split, metrics in self.document.get("metrics", {}).items()}

    def metric(self, name: str, split: str | None = None) -> Interval:
        """Return a metric of a split; None: of the one that the result is judged by.

        Examples:
            >>> clf.result.metric("accuracy").n
            40

        Raises:
            InputError: there is no such split or metric.
        """
        metrics = self.metrics
        if (chosen := split or self.split) not in metrics:
            raise InputError(f"{chosen}: no such split; there are {listed(list(metrics))}")
        scores = metrics[chosen]
        if name not in scores:
            raise InputError(
                f"{name}: no such metric{did_you_mean(name, scores)}; there are {listed(list(scores), 20)}"
            )
        return scores[name]

    @property
    def baselines(self) -> dict[str, Scores]:
        """Metrics of the baselines on the same split, by their key: majority, linear."""
        return {name: _scores(metrics) for name, metrics in self.document.get("baselines", {}).items()}

    @property
    def per_class(self) -> dict[str, dict[str, Any]]:
        """Precision, recall and F1 with intervals, and the support, of each class of the judged split.

        Empty for a run of an earlier version.
        """
        classes = self._of_split("per_class")
        return {label: {n: _interval(v) for n, v in scores.items()} for label, scores in classes.items()}

    @property
    def per_target(self) -> dict[str, Scores]:
        """Metrics with intervals of each of several targets, on the judged split; empty without several."""
        return {name: _scores(metrics) for name, metrics in self._of_split("per_target").items()}

    def _of_split(self, section: str) -> Mapping[str, Any]:
        """Return the part of a section on the judged split."""
        return (self.document.get(section) or {}).get(self.split) or {}

    @property
    def doubts(self) -> tuple[dict[str, str], ...]:
        """Reasons to doubt the numbers, with their remedies."""
        return tuple(self.document.get("doubts") or ())

    @property
    def rungs(self) -> tuple[dict[str, Any], ...]:
        """What method auto tried, in its order: name, metrics of the validation rows, verdict, reason and seconds."""
        return tuple(self.document.get("rungs") or ())

    @property
    def parity(self) -> dict[str, dict[str, Any]]:
        """The gates of the run by name, each with `ok`, the largest difference of logits and its tolerance."""
        return dict(self.document.get("parity", {}))

    @property
    def time(self) -> dict[str, float]:
        """Seconds of the stages of the run."""
        return dict(self.document.get("time", {}))

    @property
    def throughput(self) -> dict[str, float | None]:
        """Rows and tokens per second."""
        return dict(self.document.get("throughput", {}))

    @property
    def plots(self) -> dict[str, Plot]:
        """The plots in the run's folder by name: learning_curves, confusion_matrix, reliability, learning_rate.

        Examples:
            >>> list(clf.result.plots)[:2]
            ['learning_curves', 'confusion_matrix']
        """
        if self.folder is None:
            return {}
        files = {name: self.folder / plots.FOLDER / name for name in plots.TITLES}
        return {
            name: Plot(plots.TITLES[name], path.with_suffix(".png"), path.with_suffix(".svg"))
            for name, path in files.items()
            if path.with_suffix(".png").is_file()
        }

    @property
    def notes(self) -> tuple[str, ...]:
        """What was inferred, held out or left out."""
        return (*self.document.get("data", {}).get("notes", ()), *self.document.get("notes", ()))

    def to_dict(self) -> dict[str, Any]:
        """Return the content of result.json, as a copy.

        Examples:
            >>> clf.result.to_dict()["schema"]
            1
        """
        return copy.deepcopy(dict(self.document))

    def __getitem__(self, section: str) -> Any:
        return self.document[section]

    def _models(self) -> list[dict[str, Any]]:
        """Return name and metrics of this model and of the baselines, as `comparison_table` takes them."""
        baselines = self.document.get("baselines", {})
        return [
            {"name": "this model", **self.document.get("metrics", {}).get(self.split, {})},
            *({**scores, "name": _title(key, scores.get("name", key))} for key, scores in baselines.items()),
        ]

    @property
    def _summary(self) -> tuple[str, ...]:
        return self._task.summary

    @property
    def _task(self) -> type[Task]:
        return task_kind(self.document)

    @property
    def _title(self) -> str:
        return f"{self.name} on {counted(self.rows.get(self.split, 0), f'{self.split} row')}, 95% intervals"

    def to_text(self) -> str:
        """Return the tables as the shell prints them: remedies name flags, and keywords in `str(result)`.

        Examples:
            >>> clf.result.to_text().splitlines()[0] == str(clf.result).splitlines()[0]
            True
        """
        return self._text(self.doubts)

    def __str__(self) -> str:
        return self._text(self._doubts_in_python)

    def _text(self, doubts: Sequence[Mapping[str, str]]) -> str:
        shown = (*self._summary, *extra_names(self.metrics.get(self.split, {})))
        noun = self._task.per_class_noun
        parts = [f"{self._title}\n{comparison_table(self._models(), metrics=shown, noun=noun)}"]
        if scores := self._of_split("per_class"):
            parts.append(per_class_table(scores, noun=noun, counted_as=self._task.counted))
        parts += [per_target_table(targets)] if (targets := self._of_split("per_target")) else []
        parts += [candidates_table(ranking)] if (ranking := self.document.get("candidates")) else []
        if rungs := self.document.get("rungs"):
            verdict = wrapped(self.document["ladder"]["verdict"], indent=0)
            parts.append(f"{rungs_table(rungs, self._task.judged_by)}\n{verdict}")
        parts += [compression_text(section)] if (section := self.document.get("compression")) else []
        parts += [wrapped(seeds["summary"], indent=0)] if (seeds := self.document.get("seeds")) else []
        parts += [doubts_text(doubts)] if doubts else []
        return "\n\n".join(parts)

    @property
    def _doubts_in_python(self) -> list[dict[str, str]]:
        return [{name: in_python(text) for name, text in doubt.items()} for doubt in self.doubts]

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return the tables and the learning curves for a notebook."""
        models = self._models()
        rows = [[name, *(_cell(row.get(name)) for row in models)] for name in self.metrics.get(self.split, {})]
        parts = [f"<p><b>{escape(self._title)}</b></p>", html_table(["", *(row["name"] for row in models)], rows)]
        if classes := self._of_split("per_class"):
            counts = PLURALS[self._task.counted]
            columns = {"precision": "precision", "recall": "recall", "f1": "f1", "support": counts}
            rows = [[label, *(_cell(classes[label].get(name)) for name in columns)] for label in worst_classes(classes)]
            header = [self._task.per_class_noun, *columns.values()]
            parts.append(html_table(header, rows[:MOST_SHOWN]))
            if others := rows[MOST_SHOWN:]:
                summary = f"{counted(len(others), 'other')} with a higher F1"
                parts.append(f"<details><summary>{summary}</summary>{html_table(header, others)}</details>")
        if targets := self.per_target:
            rows = [
                [name, *(_cell(each.get(name)) for each in targets.values())] for name in next(iter(targets.values()))
            ]
            parts.append(html_table(["target", *targets], rows))
        if self.doubts:
            items = (
                f"<li>{escape(d.get('message', ''))} <i>{escape(d.get('remedy', ''))}</i></li>"
                for d in self._doubts_in_python
            )
            parts.append(f"<p><b>doubts</b></p><ul>{''.join(items)}</ul>")
        if curves := self.plots.get("learning_curves"):
            parts.append(curves.html)
        return "".join(parts)


def _title(key: str, name: str) -> str:
    return key if key == name else f"{key} ({name})"


def _is_interval(value: Any) -> bool:
    return isinstance(value, Mapping) and {"value", "low", "high", "n"} <= value.keys()


def _interval(value: Any) -> Any:
    return Interval(*(value[name] for name in ("value", "low", "high", "n"))) if _is_interval(value) else value


def _scores(metrics: Mapping[str, Any]) -> Scores:
    return {name: _interval(value) for name, value in metrics.items() if _is_interval(value)}


def _cell(value: Any) -> str:
    value = _interval(value)
    if isinstance(value, Interval):
        return f"{value.value:z.3f} [{value.low:z.3f}, {value.high:z.3f}]"
    return "" if value is None else str(value)


def html_table(header: list[str], rows: list[list[str]]) -> str:
    """Return a table of HTML."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{row}</tr>' for row in body)}</tbody></table>"
