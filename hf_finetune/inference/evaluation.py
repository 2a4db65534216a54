"""Metrics of a finished classifier on labeled rows.

Legend: N rows, C classes.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_finetune.augmentation.test_time import SeveralViews
from hf_finetune.data.config import SourceSplit
from hf_finetune.data.inputs import TextInputs
from hf_finetune.data.labels import labels_of
from hf_finetune.data.provenance import row_keys
from hf_finetune.data.ragged import join
from hf_finetune.data.rows import UnusableRow, count_kinds
from hf_finetune.data.truncation import Truncation
from hf_finetune.evaluation import doubts
from hf_finetune.evaluation.doubts import Doubt
from hf_finetune.evaluation.intervals import Interval
from hf_finetune.evaluation.per_class import ClassScores, class_section, target_section
from hf_finetune.inference.parts import read_parts
from hf_finetune.inference.scoring import AnyScorer, Precision, scorer_of
from hf_finetune.tasks.base import Task
from hf_finetune.tasks.trained_model import TrainedModel
from hf_finetune.tasks.trained_pipeline import Trained
from hf_finetune.utils.core_sharing import shared_cores

logger = logging.getLogger("hf_finetune")

SAMPLE = 1000
"""Rows whose length is compared with the maximum length."""


@shared_cores()
def evaluate(
    classifier: Trained,
    source: SourceSplit,
    *,
    batch_size: int | None = None,
    resamples: int = 1000,
    precision: Precision = "auto",
    views: SeveralViews | None = None,
    trained_on: np.ndarray | None = None,
    extra: Sequence[str] = (),
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Score labeled rows.

    Args:
        batch_size, views: see `Scorer`.
        precision: auto is float32 here; with bf16 the agreement of labels with float32 is under "precision".
        trained_on: keys of the training rows of this classifier, see `data.provenance.trained_on`. Scored rows among
            them are counted, and a warning is logged. None: unknown.
        extra, trust_remote_code: further metrics, see `evaluation.extra_metrics.load_extra_metrics`.

    Returns:
        {"rows", "metrics" with intervals, "per_class" (by label, see `evaluation.per_class`), "per_target" (the
        metrics of each of several targets), "doubts" (see `evaluation.doubts`), "rows_trained_on", "dropped",
        "throughput", "precision"}. With views the metrics are those of the views, and "views" has {"number", "augment",
        "seed", "without" (the metrics of the unchanged rows), "difference" (see `Task.compare`), "cost" (seconds
        relative to the unchanged rows alone)}.

    Raises:
        InputError: a row without a label, or with a label that the classifier does not know; or a metric that cannot be
            used.
    """
    classifier.task.refuse("evaluate.extra", is_set=bool(extra))
    if extra:  # whose import takes seconds
        from hf_finetune.evaluation.extra_metrics import load_extra_metrics, with_intervals

        further = load_extra_metrics(
            extra,
            classifier.labels,
            classifier.task.activation,
            computed=classifier.task.metrics,
            trust_remote_code=trust_remote_code,
        )
    options: dict[str, Any] = {"batch_size": batch_size, "views": views}
    scorer = scorer_of(classifier, "float32" if precision == "auto" else precision, **options)
    scored, task = _score(scorer, source, trained_on), classifier.task
    labels, scores_NC = scored.labels, scored.scores_NC
    if scored.num_leaked:
        logger.warning(doubts.leaked_rows(scored.num_leaked, len(labels))[0].message)
    intervals = task.intervals(labels, scores_NC, resamples=resamples)
    if extra:
        intervals |= with_intervals(further, labels, scores_NC, task.decided(scores_NC))
    scores = task.per_class(labels, scores_NC)
    result = {
        **scorer.report(),
        "metrics": {name: interval.to_dict() for name, interval in intervals.items()},
        "per_class": class_section(scores),
        "per_target": target_section(task.per_target(labels, scores_NC, resamples=resamples)),
        "doubts": [doubt.to_dict() for doubt in _doubts(task, scores, intervals, scored)],
        "rows_trained_on": None if trained_on is None else scored.num_leaked,
        # Null: such rows would have been refused.
        "dropped": _dropped(scored.dropped) if source.drop_bad_rows else None,
    }
    if views is not None:
        comparison = _gain(task, labels, scores_NC, np.concatenate(scored.unchanged), resamples=resamples)
        result["views"] = {**views.to_dict(), **comparison, "cost": round(scorer.cost, 2)}
    return result


@dataclass
class _Scored:
    """Labeled rows with their scores."""

    labels: Any
    scores_NC: Any
    unchanged: list[np.ndarray]
    """Scores of the unchanged rows, of each part."""
    truncation: Truncation | None
    """Of the first `SAMPLE` rows."""
    num_leaked: int
    """Rows that are training rows."""
    dropped: list[UnusableRow]


def _score(scorer: AnyScorer, source: SourceSplit, trained_on: np.ndarray | None) -> _Scored:
    classifier, num_leaked = scorer.classifier, 0
    labels, scores, unchanged = list[Any](), list[Any](), list[np.ndarray]()
    truncation: Truncation | None = None
    dropped: list[UnusableRow] = []
    for rows in read_parts(classifier, source, labeled=True, progress="evaluate", dropped=dropped):
        scores_NC, unchanged_NC = scorer.score(rows)
        scores.append(scores_NC)
        unchanged.append(unchanged_NC)
        labels.append(labels_of(rows))
        if truncation is None and isinstance(classifier, TrainedModel) and isinstance(classifier.inputs, TextInputs):
            first = rows.select(range(min(len(rows), SAMPLE)))
            truncation = classifier.inputs.truncation(classifier.inputs.encode(first))
        if trained_on is not None:
            num_leaked += int(np.isin(row_keys(rows), trained_on).sum())
    return _Scored(join(labels), join(scores), unchanged, truncation, num_leaked, dropped)


def _dropped(rows: Sequence[UnusableRow]) -> dict[str, Any]:
    return {"rows": len(rows), "reasons": count_kinds(rows)}


def _gain(
    task: Task, labels: np.ndarray, scores_NC: np.ndarray, unchanged_NC: np.ndarray, *, resamples: int
) -> dict[str, Any]:
    """Return the metrics of the unchanged rows, and the paired difference; above 0 the views are better."""
    without = task.intervals(labels, unchanged_NC, resamples=resamples)
    return {
        "without": {name: interval.to_dict() for name, interval in without.items()},
        "difference": task.compare(labels, scores_NC, task.settled(unchanged_NC)),
    }


def _doubts(
    task: Task,
    scores: Sequence[ClassScores],
    metrics: Mapping[str, Interval],
    scored: _Scored,
) -> tuple[Doubt, ...]:
    """Return what makes these metrics doubtful.

    Args:
        task: the interval of its metric shows whether the rows are enough.
    """
    rows, metric = next(iter(metrics.values())).n, task.epoch_metric
    return (
        *doubts.leaked_rows(scored.num_leaked, rows),
        *doubts.unrecognized({"scored": scores}, weights=task.rare_remedy, noun=task.counted),
        *doubts.missing_classes(
            "scored", scores, metrics, remedy="score rows of these classes, too", noun=task.counted
        ),
        *(
            doubts.few_rows(
                "scored", metric, metrics[metric], purpose="to judge a model by", remedy="score about {rows} rows"
            )
            if scores and metric in metrics
            else ()
        ),
        *doubts.truncation_doubts(scored.truncation, "scored texts" if rows <= SAMPLE else f"first {SAMPLE:,} texts"),
    )
