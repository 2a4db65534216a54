"""The predictions of a run's teachers: of its rows once, or of each epoch's views as the epoch begins.

Each teacher's predictions are cached on the disk by what they depend on, for later runs.

Legend: N rows, B rows of a batch, C classes of the data, in their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset

from hf_finetune.augmentation.online import AugmentedRows
from hf_finetune.data.config import Activation
from hf_finetune.data.ragged import Ragged, flat, with_values
from hf_finetune.data.word_inputs import words_per_row
from hf_finetune.distillation.cache.logits import Logits
from hf_finetune.distillation.teachers.base import Teacher
from hf_finetune.distillation.teachers.loading import combined_weights
from hf_finetune.distillation.teachers.network import NetworkTeacher
from hf_finetune.evaluation.metrics import activate
from hf_finetune.evaluation.test_time import mean_probabilities
from hf_finetune.utils.timer import Timer


def mean_logits(logits: Sequence[np.ndarray], activation: Activation = "softmax") -> np.ndarray:
    """Return the logits of the mean of several teachers' predictions (an ensemble as in arXiv:1503.02531).

    Args:
        logits: each teacher's, of the same rows, shape (N, C).

    Returns:
        Shape (N, C), float32. Of classes, the logarithm of the mean probabilities; of tags, their log odds; the mean of
        numbers.
    """
    mean_NC = mean_probabilities(activate(logits_NC, activation) for logits_NC in logits)
    if activation == "identity":
        return mean_NC.astype(np.float32)
    # A probability of 0 in float64 has no finite logarithm.
    least = np.finfo(np.float64).tiny
    log_NC = np.log(np.maximum(mean_NC, least))
    if activation == "sigmoid":
        absent_NC = mean_probabilities(activate(-logits_NC, activation) for logits_NC in logits)
        log_NC = log_NC - np.log(np.maximum(absent_NC, least))
    return log_NC.astype(np.float32)


@dataclass(frozen=True)
class EnsembleLogits:
    """`mean_logits` of several teachers, computed for the rows that are read."""

    members: Sequence[Logits]
    activation: Activation = "softmax"

    def __len__(self) -> int:
        return len(self.members[0])

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        """Return the logits (B, C), float32, of the rows of these numbers."""
        return mean_logits([member[rows] for member in self.members], self.activation)


@contextmanager
def main_process_first(timer: Timer) -> Iterator[None]:
    """Let the main process compute and cache during a training, and the others read its cache.

    torch's random numbers are restored: a loader of rows draws from them, and dropout must not change.
    """
    with timer, PartialState().main_process_first(), torch.random.fork_rng(devices=[]):
        yield


class OnlinePredictions:
    """Predicts the views of each epoch as it begins, through each teacher's own tokenizer or processor.

    The predictions are cached for a resumed run, or another run with the same views. Views of images are the student's
    pixels, which the teacher's processor normalizes.

    Args:
        teachers: one, or several for the mean of their probabilities.
        budget_gb: see `Teacher.predict`.
        activation: see `mean_logits`.
    """

    def __init__(self, teachers: Sequence[Teacher], budget_gb: float, activation: Activation = "softmax") -> None:
        self.teachers, self.budget_gb, self.activation, self.timer = teachers, budget_gb, activation, Timer()

    def __call__(self, views: AugmentedRows) -> Logits:
        """Return the logits (N, C) of the epoch's views."""
        split = f"epoch {views.epoch}"
        with main_process_first(self.timer):
            members = [teacher.predict(views, split, budget_gb=self.budget_gb)[0] for teacher in self.teachers]
        return members[0] if len(members) == 1 else EnsembleLogits(members, self.activation)


@dataclass(frozen=True)
class TeacherPredictions:
    """The predictions of a teacher, or of several together, for a run's rows."""

    names: tuple[str, ...]
    """`Teacher.name` of each."""
    weights: str
    """`Teacher.weights`; of several together, see `combined_weights`."""
    logits: dict[str, Any]
    """Logits (N, C), float32, of each evaluated split; of words `Ragged`."""
    cached: bool
    """Whether an earlier run has cached all of them, and those of the training rows."""
    training: Logits | None = None
    """Logits of the training rows, or of all their words; None with `online`."""
    online: OnlinePredictions | None = None
    """Predicts the views of the training rows, with online augmentation."""
    members: tuple[TeacherPredictions, ...] = ()
    """The predictions of each of several teachers."""
    overlaps: tuple[str, ...] = ()
    """Doubts about what the teachers were trained on, see `data.provenance.teacher_overlaps`."""

    @property
    def of_training(self) -> Logits | OnlinePredictions:
        """What the student learns from."""
        predictions = self.training if self.online is None else self.online
        assert predictions is not None, "the training rows were not predicted"
        return predictions


def predict_rows(
    teachers: Sequence[Teacher],
    splits: Mapping[str, Dataset],
    *,
    budget_gb: float,
    online: bool = False,
    activation: Activation = "softmax",
) -> TeacherPredictions:
    """Predict all rows, and cache the predictions of each teacher.

    Args:
        teachers: one, or several for the mean of their probabilities.
        splits: canonical rows by split.
        budget_gb: see `Teacher.predict`.
        online: leave out the training rows, whose views are predicted in each epoch.
        activation: see `mean_logits`.
    """
    rows = {name: rows for name, rows in splits.items() if not (online and name == "train")}
    members = tuple(_predict_one(teacher, rows, budget_gb) for teacher in teachers)
    predictions = members[0] if len(members) == 1 else _ensemble(members, activation)
    return replace(predictions, online=OnlinePredictions(teachers, budget_gb, activation)) if online else predictions


def _ensemble(members: tuple[TeacherPredictions, ...], activation: Activation) -> TeacherPredictions:
    training = [member.training for member in members if member.training is not None]
    return TeacherPredictions(
        names=tuple(name for member in members for name in member.names),
        weights=combined_weights([member.weights for member in members]),
        logits={
            split: with_values(first, mean_logits([flat(member.logits[split]) for member in members], activation))
            for split, first in members[0].logits.items()
        },
        cached=all(member.cached for member in members),
        training=EnsembleLogits(training, activation) if training else None,
        members=members,
    )


def _predict_one(teacher: Teacher, splits: Mapping[str, Dataset], budget_gb: float) -> TeacherPredictions:
    if isinstance(teacher, NetworkTeacher):
        teacher.warn_of_pairs(splits["validation"])
    predictions = {name: teacher.predict(rows, name, budget_gb=budget_gb) for name, rows in splits.items()}
    logits = {name: each for name, (each, _) in predictions.items()}
    return TeacherPredictions(
        names=(teacher.name,),
        weights=teacher.weights,
        training=logits.pop("train", None),
        logits={name: _of_rows(each[np.arange(len(each))], splits[name]) for name, each in logits.items()},
        cached=all(cached for _, cached in predictions.values()),
    )


def _of_rows(logits: np.ndarray, rows: Dataset) -> Any:
    """Return logits of rows as they are, and those of all words by row."""
    words_N = words_per_row(rows)
    return logits if words_N is None else Ragged.of(logits, words_N)
