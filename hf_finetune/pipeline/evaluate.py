"""Evaluate the trained network on the validation and test rows, and compare it with simple baselines.

Legend: N rows, C classes.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset
from torch import nn

from hf_finetune.data.inputs import Rows, columns_of
from hf_finetune.data.unlabeled import labeled_rows
from hf_finetune.evaluation import calibration
from hf_finetune.evaluation.intervals import Interval, bootstrap, paired_difference, verdict
from hf_finetune.evaluation.logits import predict_logits
from hf_finetune.evaluation.metrics import SUMMARY_METRICS, softmax
from hf_finetune.evaluation.per_class import ClassScores, per_class
from hf_finetune.features.baselines import linear_baseline, majority
from hf_finetune.pipeline.context import Run
from hf_finetune.pipeline.train import TrainedRun
from hf_finetune.utils.tables import write_predictions

if TYPE_CHECKING:
    from hf_finetune.evaluation.extra_metrics import ExtraMetric


@dataclass(frozen=True)
class ScoredSplit:
    """A split with the network's predictions."""

    rows: Dataset
    labels_N: np.ndarray
    logits_NC: np.ndarray
    metrics: dict[str, Interval]
    rows_per_s: float

    @property
    def probabilities_NC(self) -> np.ndarray:
        """Probabilities of the classes."""
        return softmax(self.logits_NC)

    @property
    def predicted_N(self) -> np.ndarray:
        """Predicted class of each row."""
        return self.probabilities_NC.argmax(-1)

    def per_class(self, labels: Sequence[str]) -> tuple[ClassScores, ...]:
        """Return the scores of each class, see `evaluation.per_class`."""
        return per_class(self.labels_N, self.predicted_N, labels)

    def accuracy_gain(self, is_right_N: np.ndarray) -> dict[str, Any]:
        """Return for result.json the accuracy minus that of another model, paired by row, with the verdict.

        Args:
            is_right_N: whether the other model predicts the row's label, shape (N,).
        """
        difference = paired_difference(self.predicted_N == self.labels_N, is_right_N)
        return {**difference.to_dict(), "verdict": verdict(difference)}


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


def evaluate(trained: TrainedRun) -> Evaluation:
    """Score every labeled split, write predictions.parquet, and fit the baselines."""
    run, splits = trained.run, trained.run.data.splits
    network, evaluated = trained.network, {"validation": splits.validation, "test": splits.test}
    with trained.clock.measure("evaluate_s"):
        scored = {name: _score(network, run, name, rows) for name, rows in evaluated.items() if rows}
        write_predictions(
            trained.folder / "predictions.parquet",
            {name: split.rows for name, split in scored.items()},
            {name: split.probabilities_NC for name, split in scored.items()},
            splits.labels,
        )
    evaluation = Evaluation(scored)
    with trained.clock.measure("baselines_s"):
        baselines = _baselines(run, evaluation.judged_split) if run.recipe.evaluate.baselines else {}
    return replace(evaluation, baselines=baselines)


def _score(network: nn.Module, run: Run, name: str, rows: Dataset) -> ScoredSplit:
    started = time.perf_counter()
    logits_NC = predict(network, run, rows, progress=f"evaluate {name}")
    seconds = time.perf_counter() - started
    labels_N = np.asarray(rows["label"][:])
    return ScoredSplit(rows, labels_N, logits_NC, _metrics(run, labels_N, softmax(logits_NC)), len(rows) / seconds)


def _metrics(run: Run, labels_N: np.ndarray, probabilities_NC: np.ndarray) -> dict[str, Interval]:
    """Return the metrics of `evaluate.combine`, with the intervals of the bootstrap, and those of evaluate.extra."""
    from hf_finetune.evaluation.evaluate_metrics import all_metrics  # takes seconds to import
    from hf_finetune.evaluation.extra_metrics import with_intervals

    intervals = bootstrap(labels_N, probabilities_NC, resamples=run.recipe.evaluate.resamples)
    values = all_metrics(labels_N, probabilities_NC)
    return {
        **{name: replace(interval, value=values[name]) for name, interval in intervals.items()},
        **with_intervals(extra_metrics(run), labels_N, probabilities_NC),
    }


def extra_metrics(run: Run) -> tuple["ExtraMetric", ...]:
    """Load the metrics of evaluate.extra.

    Raises:
        InputError: see `evaluation.extra_metrics.load_extra_metrics`.
    """
    if not run.recipe.evaluate.extra:
        return ()
    from hf_finetune.evaluation.extra_metrics import load_extra_metrics

    trusted = run.recipe.model.trust_remote_code
    return load_extra_metrics(run.recipe.evaluate.extra, run.data.splits.labels, trust_remote_code=trusted)


def predict(network: nn.Module, run: Run, rows: Dataset, *, progress: str | None = None) -> np.ndarray:
    """Return the logits (N, C) of canonical rows, computed from texts or images as a user of the model does.

    Args:
        progress: title of the count, see `predict_logits`.
    """
    inputs = run.data.inputs.for_inference()
    encoded = inputs.encode(rows)
    return predict_logits(
        network,
        Rows(encoded, columns_of(inputs, labels=False)),
        inputs.collate,
        batch_size=run.recipe.train.per_device_eval_batch_size,
        lengths=inputs.lengths(encoded),
        progress=progress,
    )


def _baselines(run: Run, judged: ScoredSplit) -> dict[str, dict[str, Any]]:
    """Score the majority class and a linear model on shallow features, and compare the network with them."""
    train, num_labels = labeled_rows(run.data.splits.train), len(run.data.splits.labels)
    baselines = {}
    for key, fit in (("majority", majority), ("linear", linear_baseline)):
        baseline = fit(train, judged.rows, num_labels=num_labels)
        probabilities_NC = baseline.probabilities_NC
        intervals = bootstrap(judged.labels_N, probabilities_NC, resamples=run.recipe.evaluate.resamples)
        baselines[key] = {
            "name": baseline.name,
            **{metric: intervals[metric].to_dict() for metric in SUMMARY_METRICS},
            "difference": judged.accuracy_gain(probabilities_NC.argmax(-1) == judged.labels_N),
        }
    return baselines


def calibration_section(evaluation: Evaluation) -> dict[str, Any]:
    """Return for result.json the reliability on the judged split, and the temperature fitted on validation."""
    validation, judged = evaluation.splits["validation"], evaluation.judged_split
    return {
        "split": evaluation.judged,
        "temperature": calibration.temperature(validation.labels_N, validation.logits_NC),
        "bins": [asdict(each) for each in calibration.reliability(judged.labels_N, judged.probabilities_NC)],
    }
