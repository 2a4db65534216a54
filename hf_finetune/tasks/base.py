"""What a problem type is: its outputs, loss, fitted head, metrics, baselines and tables. Each has a file of its own.

The pipeline asks the task of a run for these, and never which task it is. Labels, logits and scores are arrays with an
entry for each row; where a row has several, as a sentence has words, they are `data.ragged.Ragged`, indexed alike.

Legend: N rows, B rows of a batch, C outputs (classes, tags or targets), D features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from datasets import Dataset
from torch import Tensor, nn

from hf_finetune.errors import InputError
from hf_finetune.evaluation.config import Evaluate
from hf_finetune.evaluation.intervals import Interval
from hf_finetune.evaluation.metrics import activate
from hf_finetune.evaluation.paired import Verdict, verdict
from hf_finetune.evaluation.per_class import ClassScores
from hf_finetune.features.baselines import Baseline
from hf_finetune.tasks.traits import TaskTraits
from hf_finetune.training.losses.config import ClassWeights, Loss
from hf_finetune.training.losses.weighted import WeightedLoss
from hf_finetune.training.warm_start import FittedHead, halves_of


@dataclass(frozen=True)
class HeadFit:
    """How a head is fitted before training."""

    inverse_strength: float
    """scikit-learn's C, the inverse of the L2 penalty."""
    weights_N: np.ndarray | None = None
    """Weight of each row, of sentences of each word. None: all the same."""
    first_N: np.ndarray | None = None
    """Index of the first row that each row repeats. None: no repeats."""
    positive_C: np.ndarray | None = None
    """Weight of the rows that have a tag, for each tag. None: all 1."""
    explains: bool = True
    """Whether `FittedHead.explained` is measured, which takes twice the time of the fit; else it is NaN."""
    stronger: tuple[float, ...] = ()
    """Further values of `inverse_strength`, of which held-out rows choose where a row has one class."""

    def measured_halves(self, rows: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        """Return the indices of two random halves of the rows, each as held out with the other, see `halves_of`; none
        where nothing is measured, or a half is empty."""
        first, second = halves_of(np.arange(rows) if self.first_N is None else self.first_N)
        return ((first, second), (second, first)) if self.explains and len(first) and len(second) else ()


@dataclass(frozen=True)
class Task(TaskTraits, ABC):
    """A problem type, for given outputs."""

    labels: tuple[str, ...]
    """Names of the classes, tags or targets, in the order of the outputs."""

    def configured(self, evaluate: Evaluate) -> Task:
        """Return the task as a recipe evaluates it.

        Raises:
            InputError: it cannot.
        """
        if evaluate.constrained_decoding:
            raise InputError(
                "evaluate.constrained_decoding: expected false with these labels, got true: it needs BIO or BIOES tags "
                "of words"
            )
        return self

    # Training

    def class_weights(self, weights: ClassWeights, counts_C: Sequence[float], rows: int) -> tuple[float, ...]:
        """Return the weight of each class's rows.

        Args:
            counts_C: rows of each class or tag in an epoch.
            rows: rows of an epoch.

        Raises:
            InputError: a weight for an unknown class.
        """
        return weights(counts_C, self.labels)

    def training_loss(
        self, loss: Loss | None, label_smoothing: float, weights_C: Tensor | None, shift_C: Tensor | None
    ) -> WeightedLoss:
        """Return the loss against the labels.

        Args:
            loss: that of the recipe. None: the default.
            weights_C: see `class_weights`. None: all 1.
            shift_C: see `WeightedLoss`.

        Raises:
            InputError: the loss is for another task.
        """
        chosen = self.choose_loss(loss)
        return WeightedLoss(lambda x, y: chosen(x, self.scaled(y), label_smoothing), weights_C, shift_C)

    def scaled(self, labels: Any) -> Any:
        """Return labels in the units in which the network trains."""
        return labels

    @abstractmethod
    def fit_head(self, features_ND: np.ndarray, labels: Any, fit: HeadFit) -> FittedHead:
        """Fit a linear layer to features, as the network's classification layer trains."""

    def start(self, network: nn.Module, fresh: Sequence[str]) -> None:
        """Change a network of an earlier run so that it answers in the units of training; by default it does already.

        Args:
            fresh: names of modules that start at random.
        """
        return None

    def finish(self, network: nn.Module) -> None:
        """Change the trained network so that it answers in the units of the labels; by default it does already."""
        return None

    @abstractmethod
    def rows_per_output(self, labels: Any) -> np.ndarray:
        """Return the rows of each class or tag, shape (C,); all rows for a target."""

    def support(self, labels: Any) -> dict[str, int]:
        """Return how often each name of `per_class` occurs."""
        return dict(zip(self.labels, self.rows_per_output(labels).tolist(), strict=True))

    def with_every_output(self, chosen_n: np.ndarray, labels: Any) -> np.ndarray:
        """Add to the indices of chosen rows those without which a head could not be fitted."""
        return chosen_n

    # Evaluation

    def check_judged(self, labels: np.ndarray, split: str) -> None:
        """Check that the metrics of labels have values; by default they do.

        Raises:
            InputError: naming the split.
        """
        return None

    def scores(self, logits_NC: Any) -> Any:
        """Return what a user reads of logits, shape (N, C), float64: probabilities or numbers."""
        return activate(logits_NC, self.activation)

    def training_scores(self, logits_NC: Any) -> Any:
        """Return the scores of logits in the units in which the network trains."""
        return self.scores(logits_NC)

    @abstractmethod
    def values(self, labels: Any, scores_NC: Any) -> dict[str, float]:
        """Return every metric that is defined."""

    def epoch_values(self, labels: Any, logits_NC: Any) -> dict[str, float]:
        """Return the metrics of logits of the training network."""
        return self.values(labels, self.training_scores(logits_NC))

    @abstractmethod
    def intervals(self, labels: Any, scores_NC: Any, *, resamples: int) -> dict[str, Interval]:
        """Return every metric that is defined, with its 95% interval."""

    def measured(self, labels: Any, scores_NC: Any, *, resamples: int) -> dict[str, Interval]:
        """Return the metrics of a finished run; where there are modules of `evaluate`, by these."""
        return self.intervals(labels, scores_NC, resamples=resamples)

    def calibration(self, labels: Any, scores_NC: Any) -> list[dict[str, Any]]:
        """Return how often predictions of each confidence are right, for result.json; none for numbers."""
        return []

    def temperature(self, labels: Any, logits_NC: Any) -> float | None:
        """Return the factor by which logits would be divided for the least log loss. None: no such factor."""
        return None

    def confused(self, labels: Any, scores_NC: Any) -> list[dict[str, Any]]:
        """Return the pairs of classes with the most wrong rows, for result.json; none without classes."""
        return []

    @abstractmethod
    def difference(self, labels: Any, scores_NC: Any, others_NC: Any) -> Interval:
        """Return `judged_by` of scores minus that of another model's, paired by row."""

    def log_loss_gain(self, labels: Any, scores_NC: Any, others_NC: Any) -> Interval | None:
        """Return by how much the log loss is lower than another model's, in nats, paired by row: it tells models apart
        on fewer rows than the accuracy. None: there is none, of tags and of numbers."""
        return None

    def association(self, labels: Any, scores_NC: Any, inputs: Callable[[], np.ndarray]) -> float | None:
        """Return the p-value of a test that scores say nothing of the labels, which knows no majority to beat. None:
        there is none, of tags and of numbers.

        Args:
            inputs: returns for each row the index of the first row with the same input, shape (N,).
        """
        return None

    @property
    def compared_by(self) -> tuple[str, ...]:
        """Metrics by which several runs are compared over rows and seeds."""
        return (self.judged_by,)

    def by_row(self, labels: Any, decided: Any) -> np.ndarray:
        """Return the linear contribution of each row to `judged_by`, shape (N,), whose mean it is, unless the task
        refuses the search of augmentation.

        Args:
            decided: see `decided`.
        """
        raise NotImplementedError

    def further_differences(self, labels: Any, scores_NC: Any, others_NC: Any) -> dict[str, Interval]:
        """Return the differences of further metrics that are not undefined, as `difference`; by default none."""
        return {}

    def margin(self) -> float:
        """Return the largest loss of `judged_by` that is still no worse."""
        return 0.01

    def compare(self, labels: Any, scores_NC: Any, others_NC: Any) -> dict[str, Any]:
        """Return `difference` with its verdict, for result.json, and `further_differences`, which judge nothing."""

        def judged(metric: str, difference: Interval) -> dict[str, Any]:
            found: Verdict = verdict(difference, margin=self.margin())
            return {**difference.to_dict(), "verdict": found, "metric": metric}

        comparison = judged(self.judged_by, self.difference(labels, scores_NC, others_NC))
        further = self.further_differences(labels, scores_NC, others_NC)
        return {**comparison, **({"further": [judged(*each) for each in further.items()]} if further else {})}

    @abstractmethod
    def majority(self, labels: Any) -> np.ndarray:
        """Return the scores (C,) that are the same for every row, and fit these labels best."""

    def settled(self, scores_NC: np.ndarray) -> np.ndarray:
        """Return scores as `difference` expects those of another model, whatever this task has calibrated."""
        return scores_NC

    @abstractmethod
    def agreement(self, scores_NC: Any, others_NC: Any) -> float:
        """Return how alike two models predict: the share of the same predictions, or the correlation of numbers."""

    def baselines(self, train: Dataset, rows: Dataset) -> dict[str, Baseline]:
        """Return the predictions of models without a pretrained network, by key: the constants, and `linear`.

        Args:
            train: labeled training rows.
            rows: rows to predict.
        """
        return {**self.constants(train, rows), "linear": self.linear_baseline(train, rows)}

    @abstractmethod
    def constants(self, train: Dataset, rows: Dataset) -> dict[str, Baseline]:
        """Return what needs no features of the rows, see `baselines`."""

    @abstractmethod
    def linear_baseline(self, train: Dataset, rows: Dataset) -> Baseline:
        """Return the predictions of a linear model, see `baselines`."""

    def per_class(self, labels: Any, scores_NC: Any) -> tuple[ClassScores, ...]:
        """Return the scores of each class or tag; none for numbers."""
        return ()

    def per_target(
        self, labels: np.ndarray, scores_NC: np.ndarray, *, resamples: int
    ) -> dict[str, dict[str, Interval]]:
        """Return the metrics of each of several targets, by its name; none without several."""
        return {}

    def residuals(self, labels: np.ndarray, scores_NC: np.ndarray) -> list[dict[str, Any]]:
        """Return the errors by range of the numbers or by level, for result.json, see `evaluation.residuals`."""
        return []

    calibrates: ClassVar[bool] = False
    """Whether `calibrated` needs the scores of the validation rows."""

    def calibrated(self, labels: Any, scores_NC: Any) -> Task:
        """Return the task with what the validation rows settle after training, such as thresholds."""
        return self

    def logit_size(self, logits_NC: Any) -> float:
        """Return the size to which the differences of logits in the parity gate are relative."""
        return 1.0

    # Predictions

    @property
    def cuts_C(self) -> np.ndarray | None:
        """Logit from which each tag is predicted, shape (C,). None: the class of the largest logit is."""
        return None

    def decided(self, scores_NC: np.ndarray) -> np.ndarray:
        """Return what `evaluate.extra` reads as predictions, unless the task refuses it: class ids (N,), a 0 or 1 for
        each tag, or numbers."""
        raise NotImplementedError

    @abstractmethod
    def scores_of(self, predicted: Sequence[Any]) -> Any:
        """Return scores (N, C) of `settled` thresholds that predict this, the reverse of `predicted`."""

    def labels_of_names(self, names: Sequence[Any]) -> Any:
        """Return labels from what predictions.parquet has of them, the reverse of `label_column`; by default class ids.

        Raises:
            InputError: one is no label of this task.
        """
        ids = {label: number for number, label in enumerate(self.labels)}
        unknown = next((name for name in names if name not in ids), None)
        if unknown is not None:
            raise InputError(f"label {unknown!r}: it is none of the {len(ids)} of the model")
        return np.array([ids[name] for name in names], dtype=np.int64)

    @abstractmethod
    def predicted(self, scores_NC: Any) -> Sequence[Any]:
        """Return what is predicted for each row: a name, a list of names, or a number."""

    @abstractmethod
    def label_column(self, labels: Any) -> pa.Array:
        """Return labels as predictions.parquet has them."""

    @property
    @abstractmethod
    def predicted_type(self) -> pa.DataType:
        """Type of `predicted` and `label_column`."""

    def empty_scores(self) -> Any:
        """Return the scores of no rows."""
        return np.empty((0, len(self.labels)))

    def input_columns(self, rows: Dataset) -> dict[str, pa.Array]:
        """Return columns of predictions that repeat what was read of canonical rows; by default none."""
        return {}

    def answers(self, rows: Dataset, scores_NC: Any, of_text: Sequence[bool]) -> Sequence[Any]:
        """Return what `predict` of the Python API does for each row; by default `predicted`.

        Args:
            rows: canonical rows.
            of_text: whether each was a text; False: a list of words.
        """
        return self.predicted(scores_NC)

    def found_columns(self, rows: Dataset, scores_NC: Any) -> dict[str, pa.Array]:
        """Return columns of what `predict` finds in canonical rows beside the labels; by default none."""
        return {}

    def score_columns(self, scores_NC: Any) -> dict[str, pa.Array]:
        """Return further columns of predictions: p:<name> for each class or tag."""
        columns = zip(self.labels, scores_NC.T, strict=True)
        return {f"p:{label}": pa.array(scores_N.astype(np.float32)) for label, scores_N in columns}

    # With the model

    def marks(self) -> dict[str, Any]:
        """Return the fields of the model's config that a later `saved_task` reads."""
        return {}
