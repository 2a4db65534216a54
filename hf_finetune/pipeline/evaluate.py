"""Evaluate the trained network on the validation and test rows, and compare it with simple baselines.

Legend: N rows, C classes.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
from datasets import Dataset
from torch import nn

from hf_finetune.data.inputs import Inputs, Rows, columns_of
from hf_finetune.data.labels import labels_of
from hf_finetune.data.loading import Splits
from hf_finetune.data.unlabeled import labeled_rows
from hf_finetune.data.word_inputs import by_row, word_counts
from hf_finetune.evaluation.config import Evaluate
from hf_finetune.evaluation.intervals import Interval, mean_interval
from hf_finetune.evaluation.logits import predict_logits
from hf_finetune.evaluation.per_class import ClassScores, finds_alone
from hf_finetune.features.baselines import Baseline
from hf_finetune.pipeline.context import ClassicalRun, Run
from hf_finetune.pipeline.out_of_fold import OutOfFold
from hf_finetune.pipeline.train import TrainedRun
from hf_finetune.tasks.base import Task
from hf_finetune.utils.tables import write_predictions

if TYPE_CHECKING:
    from hf_finetune.evaluation.extra_metrics import ExtraMetric


@dataclass(frozen=True)
class ScoredSplit:
    """A split with the network's predictions."""

    task: Task
    rows: Dataset
    labels: Any
    """Shape (N,) or (N, C); of words `Ragged`, as logits and scores."""
    logits_NC: Any
    metrics: dict[str, Interval]
    rows_per_s: float

    @cached_property
    def scores_NC(self) -> Any:
        """Probabilities of the classes or tags, or numbers."""
        return self.task.scores(self.logits_NC)

    @cached_property
    def per_class(self) -> tuple[ClassScores, ...]:
        """The scores of each class or tag, see `evaluation.per_class`; none for numbers."""
        return self.task.per_class(self.labels, self.scores_NC)


@dataclass(frozen=True)
class Evaluation:
    """The scores of a trained network, and of the baselines."""

    splits: dict[str, ScoredSplit]
    """Validation, and test if there is one."""
    baselines: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The section of result.json. It is {} if evaluate.baselines is off."""

    @property
    def judged(self) -> str:
        """Name of the split that judges the model: test if there is one, else validation."""
        return "test" if "test" in self.splits else "validation"

    @property
    def judged_split(self) -> ScoredSplit:
        """The split that judges the model."""
        return self.splits[self.judged]


def evaluate(trained: TrainedRun, known: Evaluation | None = None) -> Evaluation:
    """Score every labeled split, write predictions.parquet, and fit the baselines.

    Args:
        known: splits that are scored already.
    """
    run, splits, task = trained.run, trained.run.data.splits, trained.task
    network, evaluated = trained.network, {"validation": splits.validation, "test": splits.test}
    scored = {} if known is None else dict(known.splits)
    if trained.out_of_fold is not None and "validation" not in scored:
        scored["validation"] = Scoring.of(run).score_out_of_fold(task, trained.out_of_fold)
    with trained.clock.measure("evaluate_s"):
        for name, rows in evaluated.items():
            if rows and name not in scored:
                scored[name] = _score(network, run, task, name, rows)
    evaluation = Evaluation(scored)
    save_predictions(trained.folder, evaluation)
    with trained.clock.measure("baselines_s"):
        baselines = Scoring.of(run).baselines(evaluation.judged_split, trained.out_of_fold)
    return replace(evaluation, baselines=baselines)


def save_predictions(folder: Path, evaluation: Evaluation) -> None:
    """Write predictions.parquet."""
    tables = [_predictions(*each) for each in evaluation.splits.items()]
    write_predictions(folder / "predictions.parquet", tables)


def evaluate_validation(trained: TrainedRun) -> Evaluation:
    """Score the validation rows, or all rows out of fold, by which runs are compared; nothing is written."""
    if trained.out_of_fold is not None:
        scored = Scoring.of(trained.run).score_out_of_fold(trained.task, trained.out_of_fold)
        return Evaluation({"validation": scored})
    rows = trained.run.data.splits.validation
    with trained.clock.measure("evaluate_s"):
        scored = _score(trained.network, trained.run, trained.task, "validation", rows)
    return Evaluation({"validation": scored})


def _score(network: nn.Module, run: Run, task: Task, name: str, rows: Dataset) -> ScoredSplit:
    return Scoring.of(run).score(task, rows, lambda rows: predict(network, run, rows, progress=f"evaluate {name}"))


@dataclass(frozen=True)
class Scoring:
    """How the rows of a run are scored."""

    task: Task
    """Without what the validation rows settle."""
    splits: Splits
    config: Evaluate
    trust_remote_code: bool

    @classmethod
    def of(cls, run: Run | ClassicalRun) -> Self:
        """Return how a run scores its rows."""
        task, splits = (run.task, run.splits) if isinstance(run, ClassicalRun) else (run.data.task, run.data.splits)
        return cls(task, run.all_splits or splits, run.recipe.evaluate, run.recipe.model.trust_remote_code)

    def score(self, task: Task, rows: Dataset, predict: Callable[[Dataset], Any]) -> ScoredSplit:
        """Score labeled rows.

        Args:
            task: with what the validation rows settle.
            predict: returns the logits of rows.
        """
        started = time.perf_counter()
        logits_NC = predict(rows)
        seconds = max(time.perf_counter() - started, 1e-9)
        labels, scores_NC = labels_of(rows), task.scores(logits_NC)
        return ScoredSplit(task, rows, labels, logits_NC, self._metrics(task, labels, scores_NC), len(rows) / seconds)

    def _metrics(self, task: Task, labels: Any, scores_NC: Any) -> dict[str, Interval]:
        """Return the metrics of the task with their intervals, and those of evaluate.extra."""
        measured = task.measured(labels, scores_NC, resamples=self.config.resamples)
        if not self.config.extra:
            return measured
        from hf_finetune.evaluation.extra_metrics import with_intervals  # takes seconds to import

        return {**measured, **with_intervals(self.extra_metrics(), labels, scores_NC, task.decided(scores_NC))}

    def extra_metrics(self) -> tuple["ExtraMetric", ...]:
        """Load the metrics of evaluate.extra.

        Raises:
            InputError: see `evaluation.extra_metrics.load_extra_metrics`.
        """
        if not self.config.extra:
            return ()
        from hf_finetune.evaluation.extra_metrics import load_extra_metrics

        task, trust = self.task, self.trust_remote_code
        return load_extra_metrics(
            self.config.extra, task.labels, task.activation, computed=task.metrics, trust_remote_code=trust
        )

    def score_out_of_fold(self, task: Task, predicted: OutOfFold) -> ScoredSplit:
        """Return the first repeat's predictions, with the mean over the repeats of each metric and of its bounds."""
        rows, labels = predicted.rows, predicted.labels
        repeats = [self._metrics(task, labels, task.scores(logits_NC)) for logits_NC in predicted.logits_RNC]
        metrics = {name: mean_interval([each[name] for each in repeats if name in each]) for name in repeats[0]}
        rows_per_s = len(repeats) * len(rows) / max(predicted.predict_s, 1e-9)
        return ScoredSplit(task, rows, labels, predicted.logits_RNC[0], metrics, rows_per_s)

    def baselines(self, judged: ScoredSplit, predicted: OutOfFold | None = None) -> dict[str, dict[str, Any]]:
        """Score simple models, and compare the trained one with them; nothing if evaluate.baselines is off.

        Args:
            predicted: what the judged rows are, if they were predicted out of fold.
        """
        if not self.config.baselines:
            return {}
        if predicted is None or judged.rows is not predicted.rows:
            fitted = self.fitted_baselines(judged.rows)
        else:
            fitted = _baselines_out_of_fold(self.task, predicted)
        task, found = judged.task, {}
        for key, baseline in fitted.items():
            scores_NC = baseline.scores_NC
            intervals = self.task.intervals(judged.labels, scores_NC, resamples=self.config.resamples)
            alone = finds_alone(judged.per_class, self.task.per_class(judged.labels, scores_NC))
            found[key] = {
                "name": baseline.name,
                **({"finds_alone": alone} if alone else {}),
                **{metric: intervals[metric].to_dict() for metric in task.summary if metric in intervals},
                "difference": task.compare(judged.labels, judged.scores_NC, scores_NC),
            }
        return found

    def fitted_baselines(self, rows: Dataset) -> dict[str, Baseline]:
        """Return the predictions of simple models for rows, which all runs on the same splits share: the linear one of
        10,000 rows and 77 classes takes seconds."""
        key = type(self.task).__name__, self.splits.fingerprint
        known = _FITTED.get(rows)
        if known is None or known[0] != key:
            known = _FITTED[rows] = key, self.task.baselines(labeled_rows(self.splits.train), rows)
        return known[1]


_FITTED: WeakKeyDictionary[Dataset, tuple[tuple[str, str], dict[str, Baseline]]] = WeakKeyDictionary()
"""The last baselines of judged rows, as long as these are in memory."""


def _baselines_out_of_fold(task: Task, predicted: OutOfFold) -> dict[str, Baseline]:
    """Return the predictions of each row by simple models that were fitted to the other folds."""
    rows, fold_N = predicted.rows, predicted.fold_RN[0]
    fitted: dict[str, Baseline] = {}
    for fold in np.unique(fold_N):
        train, held_out = (rows.select(np.flatnonzero(side)) for side in (fold_N != fold, fold_N == fold))
        for key, baseline in task.baselines(train, held_out).items():
            empty = Baseline(baseline.name, np.zeros((len(rows), baseline.scores_NC.shape[1])))
            fitted.setdefault(key, empty).scores_NC[fold_N == fold] = baseline.scores_NC
    return fitted


def _predictions(name: str, split: ScoredSplit) -> pa.Table:
    """Return the predictions of a split as predictions.parquet has them."""
    task, scores_NC = split.task, split.scores_NC
    return pa.table(
        {
            "row": pa.array(split.rows["row"][:], pa.int64()),
            "split": pa.array([name] * len(split.rows)),
            "label": task.label_column(split.labels),
            "predicted": pa.array(task.predicted(scores_NC), task.predicted_type),
            **task.input_columns(split.rows),
            **task.score_columns(scores_NC),
        }
    )


def predict(network: nn.Module, run: Run, rows: Dataset, *, progress: str | None = None) -> Any:
    """Return the logits (N, C) of canonical rows, computed from texts or images as a user of the model does.

    Those of words are `Ragged`.

    Args:
        progress: title of the count, see `predict_logits`.
    """
    inputs = run.data.inputs.for_inference()
    return predict_encoded(network, run, inputs, inputs.encode(rows), progress=progress)


def predict_encoded(
    network: nn.Module, run: Run, inputs: Inputs, encoded: Dataset, *, progress: str | None = None
) -> Any:
    """Return the logits of rows that `inputs` has encoded, see `predict`."""
    logits_NC = predict_logits(
        network,
        Rows(encoded, columns_of(inputs, labels=False)),
        inputs.collate,
        batch_size=run.eval_batch_size,
        lengths=inputs.lengths(encoded),
        counts=word_counts(encoded),
        progress=progress,
    )
    return by_row(encoded, logits_NC)
