"""The predictions of a run's teachers: of the rows as they are, and of the views of an epoch as it begins.

Each teacher's are cached on the disk, by what they depend on: a later run that needs the same ones reads them.

Legend: N rows, C classes of the data, in their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset

from hf_finetune.augmentation.online import AugmentedRows
from hf_finetune.distillation.cache.logits import Logits
from hf_finetune.distillation.teachers.base import Teacher
from hf_finetune.distillation.teachers.loading import combined_weights
from hf_finetune.distillation.teachers.network import NetworkTeacher
from hf_finetune.evaluation.metrics import softmax
from hf_finetune.evaluation.test_time import mean_probabilities
from hf_finetune.utils.timer import Timer


def mean_logits(logits: Sequence[np.ndarray]) -> np.ndarray:
    """Compute logarithms of the arithmetic mean of several teachers' probabilities (an ensemble as in
    arXiv:1503.02531).

    Args:
        logits: of the same rows, each of shape (N, C).

    Returns:
        Shape (N, C), float32: normalized, so that their softmax is the mean itself.
    """
    mean_NC = mean_probabilities(softmax(logits_NC) for logits_NC in logits)
    # A class that float64 cannot tell from impossible.
    return np.log(np.maximum(mean_NC, np.finfo(np.float64).tiny)).astype(np.float32)


@dataclass(frozen=True)
class EnsembleLogits:
    """`mean_logits` of rows as they are read, see `cache.logits.Logits`."""

    members: Sequence[Logits]

    def __len__(self) -> int:
        return len(self.members[0])

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        """Return the logits (B, C), float32, of the rows of these numbers."""
        return mean_logits([member[rows] for member in self.members])


@contextmanager
def main_process_first(timer: Timer) -> Iterator[None]:
    """Around what a teacher computes in the midst of a training: one process does, and the others read what it caches.

    A loader of rows draws from torch's random numbers, on which dropout goes on as if nobody had computed.
    """
    with timer, PartialState().main_process_first(), torch.random.fork_rng(devices=[]):
        yield


class OnlinePredictions:
    """Predicts the views of an epoch as it begins, through each teacher's own tokenizer or processor.

    They are cached as predictions of rows are, for a run that goes on, or another one of the same views. Views of
    images are those of the student's pixels, which the teacher's processor normalizes.

    Args:
        teachers: one, or several that predict together.
        budget_gb: see `Teacher.predict`.
    """

    def __init__(self, teachers: Sequence[Teacher], budget_gb: float) -> None:
        self.teachers, self.budget_gb, self.timer = teachers, budget_gb, Timer()

    def __call__(self, views: AugmentedRows) -> Logits:
        """Return the logits (N, C) of the epoch's views."""
        split = f"epoch {views.epoch}"
        with main_process_first(self.timer):
            members = [teacher.predict(views, split, budget_gb=self.budget_gb)[0] for teacher in self.teachers]
        return members[0] if len(members) == 1 else EnsembleLogits(members)


@dataclass(frozen=True)
class TeacherPredictions:
    """What a teacher, or several together, predict of a run's rows."""

    names: tuple[str, ...]
    """See `Teacher`; of each."""
    weights: str
    """See `Teacher`, and `combined_weights`."""
    logits: dict[str, np.ndarray]
    """By split that is evaluated, shape (N, C), float32."""
    cached: bool
    """Whether all of them, and those of training, were cached by an earlier run."""
    training: Logits | None = None
    """Of the training rows; None where `online` predicts their views."""
    online: OnlinePredictions | None = None
    """Predicts the views of training rows that change in every epoch."""
    members: tuple[TeacherPredictions, ...] = ()
    """What each of several predicts by itself."""
    overlaps: tuple[str, ...] = ()
    """What speaks against it by what it was trained on, see `data.provenance.teacher_overlaps`."""

    @property
    def of_training(self) -> Logits | OnlinePredictions:
        """What a student learns from."""
        predictions = self.training if self.online is None else self.online
        assert predictions is not None, "the training rows were not predicted"
        return predictions


def predict_rows(
    teachers: Sequence[Teacher], splits: Mapping[str, Dataset], *, budget_gb: float, online: bool = False
) -> TeacherPredictions:
    """Predict all rows, in float32: those that no earlier run has cached, for each teacher by itself.

    Args:
        teachers: one or more; of several the mean counts, see `mean_logits`.
        splits: canonical rows by the split's name.
        budget_gb: see `Teacher.predict`.
        online: leave the training rows out, whose views are predicted epoch by epoch.
    """
    rows = {name: rows for name, rows in splits.items() if not (online and name == "train")}
    members = tuple(_predict_one(teacher, rows, budget_gb) for teacher in teachers)
    together = members[0]
    if len(members) > 1:
        together = TeacherPredictions(
            names=tuple(name for member in members for name in member.names),
            weights=combined_weights([member.weights for member in members]),
            logits={split: mean_logits([member.logits[split] for member in members]) for split in together.logits},
            cached=all(member.cached for member in members),
            training=EnsembleLogits([m.training for m in members if m.training is not None])
            if "train" in rows
            else None,
            members=members,
        )
    return replace(together, online=OnlinePredictions(teachers, budget_gb)) if online else together


def _predict_one(teacher: Teacher, splits: Mapping[str, Dataset], budget_gb: float) -> TeacherPredictions:
    if isinstance(teacher, NetworkTeacher):
        teacher.warn_of_pairs(splits["validation"])
    predictions = {name: teacher.predict(rows, name, budget_gb=budget_gb) for name, rows in splits.items()}
    logits = {name: each for name, (each, _) in predictions.items()}
    return TeacherPredictions(
        names=(teacher.name,),
        weights=teacher.weights,
        training=logits.pop("train", None),
        logits={name: each[np.arange(len(each))] for name, each in logits.items()},
        cached=all(cached for _, cached in predictions.values()),
    )
