"""A teacher that is a scikit-learn pipeline for texts, from a skops file.

Pickles are never loaded, nor types that skops does not trust: no trees, whose nodes may point anywhere in memory, and
no neighbors.

Legend: N rows, C classes.
"""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from datasets import Dataset

from hf_finetune.augmentation.online import AugmentedRows
from hf_finetune.data.config import Activation
from hf_finetune.data.duplicates import dataset_digests
from hf_finetune.data.inputs import Inputs
from hf_finetune.data.loading import Splits
from hf_finetune.distillation.cache.logits import LogitCache, Logits
from hf_finetune.distillation.teachers.base import class_columns, order_notes
from hf_finetune.distillation.teachers.precomputed import LEAST_PROBABILITY
from hf_finetune.errors import InputError
from hf_finetune.evaluation.logits import PART_ROWS
from hf_finetune.utils import hashing
from hf_finetune.utils.messages import install_command, listed, one_line

SUFFIX = ".skops"
# Errors of skops for other files, and of estimators that are not fitted.
UNREADABLE = (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError)


class Estimator(Protocol):
    """A fitted classifier of texts, or a regressor."""

    classes_: Sequence[object]

    def predict(self, texts: list[str]) -> np.ndarray:
        """Return the classes or numbers (N,)."""

    def predict_proba(self, texts: list[str]) -> np.ndarray:
        """Return the probabilities (N, C)."""


@dataclass(frozen=True)
class SklearnTeacher:
    """A fitted scikit-learn pipeline."""

    name: str
    """File, as the user wrote it."""
    weights: str
    """SHA-256 of the file and the version of scikit-learn."""
    model: Estimator
    classes: int
    """Number of its classes."""
    columns_C: tuple[int, ...]
    """Index of each of the data's classes among its own."""
    all_logits: bool = False
    """Whether the logarithms of all of many classes are cached, see `distillation.cache.logits`."""
    notes: tuple[str, ...] = ()
    """Notes for the user."""
    activation: Activation = "softmax"

    @property
    def files(self) -> dict[str, str]:
        """None: `weights` covers all of its files."""
        return {}

    def check(self, splits: Splits, student: Inputs, augment: Sequence[object], *, online: bool) -> None:
        """Refuse rows that it cannot predict, see `Teacher.check`.

        Raises:
            InputError: the rows are pairs of texts, or it does not read texts.
        """
        rows = splits.train
        if "text_pair" in rows.column_names:
            raise InputError(
                f"objective.teacher: expected a classifier of pairs of texts, got {self.name}, which reads one text"
            )
        self.logits(rows["text"][:1])

    def predict(self, rows: Dataset | AugmentedRows, split: str, *, budget_gb: float) -> tuple[Logits, bool]:
        """Return the predictions of all rows, and whether all were cached before, see `Teacher.predict`."""
        rows = rows.texts() if isinstance(rows, AugmentedRows) else rows
        texts = rows["text"][:]
        return LogitCache(self.name, self.classes, PART_ROWS["text"], self.columns_C, self.all_logits).load(
            {"weights": self.weights, "rows": b"".join(dataset_digests(rows)).hex()},
            len(texts),
            lambda numbers: self.logits([texts[i] for i in numbers]),
            split=split,
            budget_gb=budget_gb,
        )

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return the logarithms of the probabilities of its own classes, or its numbers, shape (N, classes), float32.

        Raises:
            InputError: it does not read texts.
        """
        try:
            if self.activation == "identity":
                numbers = np.asarray(self.model.predict(self._rows(texts)), dtype=np.float32)
                return numbers.reshape(len(texts), self.classes)
            probabilities = np.asarray(self.model.predict_proba(self._rows(texts)), dtype=np.float64)
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(
                f"objective.teacher: {self.name}: expected a pipeline that takes a list of texts, with a vectorizer as "
                f"its first step; it fails with: {one_line(error)}"
            ) from None
        return np.log(np.maximum(probabilities, LEAST_PROBABILITY)).astype(np.float32)

    def _rows(self, texts: Sequence[str]) -> Any:
        """Return texts as the pipeline reads them: a list, or the one column of a table, as in method classical."""
        names: Sequence[str] = getattr(self.model, "feature_names_in_", ())
        return pd.DataFrame({names[0]: list(texts)}) if len(names) == 1 else list(texts)


def is_sklearn(name: str) -> bool:
    """Return whether a teacher's name is that of a skops file."""
    return name.lower().endswith(SUFFIX)


def read_sklearn(
    name: str, labels: Sequence[str], activation: Activation = "softmax", *, all_logits: bool = False
) -> SklearnTeacher:
    """Read a pipeline that `skops.io.dump` wrote.

    Args:
        labels: class names of the data.
        activation: that of numbers takes a regressor; tags are refused, as its classes have no names.
        all_logits: see `SklearnTeacher`.

    Raises:
        InputError: skops is not installed, or the file is missing, holds untrusted types or has other classes.
    """
    path = Path(name).expanduser()
    if activation == "sigmoid":
        raise InputError(
            f"{name}: expected a network or a file of predictions as teacher of tags, whose names a pipeline does not "
            "have; write its predict_proba to a .parquet file, columns text and p:NAME"
        )
    try:
        from skops.io import get_untrusted_types, load
    except ModuleNotFoundError:
        raise InputError(f"{name} needs skops, which is not installed; {install_command('sklearn')}") from None
    try:
        untrusted = get_untrusted_types(file=path)
        model: Any = None if untrusted else load(path)
        names = [] if untrusted else _names(model, labels, activation)
        weights = hashing.of_json([hashing.of_files(path), version("scikit-learn")])
    except UNREADABLE as error:
        raise InputError(f"{name}: not a fitted classifier as skops.io.dump writes it ({one_line(error)})") from None
    if untrusted:
        raise InputError(
            f"{name} holds {listed(untrusted)}, which could run code or read foreign memory, and is not loaded; "
            "expected a vectorizer and a linear model or naive Bayes (LogisticRegression, MultinomialNB); for "
            "other models write the output of predict_proba to a .parquet file, columns text and p:NAME"
        )
    columns_C = class_columns(labels, names, activation, owner=name)
    notes = order_notes(name, columns_C)
    return SklearnTeacher(name, weights, model, len(names), columns_C, all_logits, notes, activation)


def _names(model: Any, labels: Sequence[str], activation: Activation) -> list[str]:
    """Return the names of the outputs of a fitted pipeline.

    Raises:
        ValueError, AttributeError: it is not fitted, or for another task.
    """
    if activation != "identity":
        return [str(label) for label in model.classes_]
    if hasattr(model, "classes_"):
        raise ValueError("it is a classifier; expected a regressor")
    return list(labels)
