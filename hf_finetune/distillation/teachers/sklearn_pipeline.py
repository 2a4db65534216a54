"""A scikit-learn pipeline that gives texts probabilities, from a file of skops: never a pickle, and nothing in it but
what skops knows to be harmless: no trees, whose nodes point anywhere, and no neighbors.

Legend: N rows, C classes.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np
from datasets import Dataset

from hf_finetune.augmentation.online import AugmentedRows
from hf_finetune.data.duplicates import row_digests
from hf_finetune.data.inputs import Inputs
from hf_finetune.data.loading import Splits
from hf_finetune.distillation.cache.logits import Logits, cached_logits, check_finite
from hf_finetune.distillation.teachers.base import class_columns, order_notes
from hf_finetune.distillation.teachers.precomputed import LEAST_PROBABILITY
from hf_finetune.errors import InputError
from hf_finetune.evaluation.logits import PART_ROWS
from hf_finetune.utils import hashing
from hf_finetune.utils.messages import listed, one_line

SUFFIX = ".skops"
# What skops raises for a file that is another, or an estimator that is not fitted.
UNREADABLE = (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError)


class Estimator(Protocol):
    """A fitted classifier of texts."""

    classes_: Sequence[object]

    def predict_proba(self, texts: list[str]) -> np.ndarray:
        """Return the probabilities (N, C)."""


@dataclass(frozen=True)
class SklearnTeacher:
    """A fitted estimator of texts, with what the run knows of it."""

    name: str
    """File, as the user wrote it."""
    weights: str
    """SHA-256 of the file, and the version of scikit-learn."""
    model: Estimator
    classes: int
    """How many it tells apart."""
    columns_C: tuple[int, ...]
    """Which of its classes is each of the data's."""
    all_logits: bool = False
    """Whether the logarithms of all of many classes are cached, see `distillation.cache.logits`."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What its user should know."""
        return order_notes(self.name, self.columns_C)

    def check(self, splits: Splits, student: Inputs, augment: Sequence[object], *, online: bool) -> None:
        """Refuse rows that it cannot predict, see `Teacher.check`.

        Raises:
            InputError: they are pairs of texts, or it reads something else than texts.
        """
        rows = splits.train
        if "text_pair" in rows.column_names:
            raise InputError(
                f"objective.teacher: expected a classifier of pairs of texts, got {self.name}, which reads one"
            )
        self.logits(rows["text"][:1])

    def predict(self, rows: Dataset | AugmentedRows, split: str, *, budget_gb: float) -> tuple[Logits, bool]:
        """Return the predictions of all rows, and whether they were cached, see `Teacher.predict`."""
        rows = rows.texts() if isinstance(rows, AugmentedRows) else rows
        texts = rows["text"][:]
        logits, cached = cached_logits(
            {"weights": self.weights, "rows": b"".join(row_digests(rows.with_format("arrow")[:])).hex()},
            len(texts),
            lambda numbers: check_finite(self.logits([texts[i] for i in numbers]), numbers, self.name, split),
            classes=self.classes,
            whole=self.all_logits,
            size=PART_ROWS["text"],
            name=split,
            budget_gb=budget_gb,
        )
        return replace(logits, columns_C=self.columns_C), cached

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return logarithms of the probabilities of all its classes in its own order, shape (N, classes), float32.

        Raises:
            InputError: it reads something else than texts.
        """
        try:
            probabilities = np.asarray(self.model.predict_proba(list(texts)), dtype=np.float64)
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(
                f"objective.teacher: {self.name}: expected a pipeline that takes a list of texts, its first step a "
                f"vectorizer; this one says: {one_line(error)}"
            ) from None
        return np.log(np.maximum(probabilities, LEAST_PROBABILITY)).astype(np.float32)


def is_sklearn(name: str) -> bool:
    """Whether a teacher's name is that of such a file."""
    return name.lower().endswith(SUFFIX)


def read_sklearn(name: str, labels: Sequence[str], *, all_logits: bool = False) -> SklearnTeacher:
    """Read a pipeline that `skops.io.dump` wrote.

    Args:
        labels: names of the data's classes.
        all_logits: see `SklearnTeacher`.

    Raises:
        InputError: there is none, skops is not installed, it holds what could run code, or it tells other classes
            apart.
    """
    path = Path(name).expanduser()
    try:
        from skops.io import get_untrusted_types, load
    except ModuleNotFoundError:
        raise InputError(
            f"objective.teacher: {name} needs skops, which is not installed; pip install 'hf_finetune[sklearn]'"
        ) from None
    try:
        if untrusted := get_untrusted_types(file=path):
            raise InputError(
                f"objective.teacher: {name} holds {listed(untrusted)}, which could run code or read memory that is not "
                "its own, and is not loaded; expected a vectorizer and a linear model or naive Bayes "
                "(LogisticRegression, SGDClassifier, MultinomialNB); of another write what predict_proba gives to a "
                ".parquet file, columns text and p:NAME"
            )
        model, weights = load(path), hashing.of_files(path)
        names = [str(label) for label in model.classes_]
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(
            f"objective.teacher: {name}: not a fitted classifier as skops.io.dump writes it ({one_line(error)})"
        ) from None
    columns_C = class_columns(labels, names, owner=name)
    weights = hashing.of_json([weights, version("scikit-learn")])
    return SklearnTeacher(name, weights, model, len(names), columns_C, all_logits)
