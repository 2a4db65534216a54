"""Choose the fields of a classifier by cross-validation, within a time limit.

Legend: N rows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from hf_finetune.features.classifiers.base import ClassicalModel, Form
from hf_finetune.features.config import Classical, ClassicalClassifier
from hf_finetune.features.extractors.base import SEED
from hf_finetune.features.pipelines import Outputs, estimator, feature_pipeline, fewest_rows
from hf_finetune.features.table import RowTable
from hf_finetune.utils.durations import parse_duration

LEAST = 1e-6
"""Least probability in a log loss: a forest is sure of what it is wrong about."""


@dataclass(frozen=True)
class Tried:
    """Values of the fields of a classifier, and their loss in cross-validation."""

    values: Mapping[str, Any]
    loss: float
    """Mean log loss of classes or tags, or mean squared error of numbers in units of their variance."""


def choose_fields(
    config: Classical,
    table: RowTable,
    frame: Any,
    targets: np.ndarray,
    outputs: Outputs,
    *,
    search_s: float | None = None,
) -> tuple[ClassicalClassifier, tuple[Tried, ...]]:
    """Return the classifier with the values of least loss, and what was compared.

    The features are fitted once for each fold. After `search_s` no further values are tried; those that were tried on
    all folds are compared. Without two of them the defaults stay, and where a fold has too few rows of a class.

    Args:
        frame: the table of the training rows.
        targets: see `classical.targets_of`.
        search_s: None: `config.search_time`.
    """
    classifier: Any = config.classifier
    grid = classifier.grid()
    candidates = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    folds = list(split_folds(targets, outputs, config.folds))
    fewest = min((fewest_rows(targets[fitted_n], outputs) for fitted_n, _ in folds), default=0)
    if len(candidates) < 2 or len(folds) < 2 or fewest < classifier.least_rows:
        return replace(classifier, **candidates[0]), ()
    started = time.perf_counter()
    limit = parse_duration(config.search_time) if search_s is None else search_s
    fitted = [_Fold.of(config, table, frame, targets, *fold) for fold in folds]
    tried: list[Tried] = []
    for values in candidates:
        # The first one alone chooses nothing.
        spent = time.perf_counter() - started
        if tried and spent + spent / len(tried) > limit:
            break
        losses = [fold.loss(replace(classifier, **values), outputs) for fold in fitted]
        tried.append(Tried(values, float(np.average(losses, weights=[len(fold.held_out_targets) for fold in fitted]))))
    best = min(tried, key=lambda each: each.loss)
    return replace(classifier, **best.values), tuple(tried)


def split_folds(targets: np.ndarray, outputs: Outputs, folds: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the indices of the fitted and of the held-out rows of each fold, classes by their share.

    Fewer folds where the smallest class has fewer rows; none where it has a single one.
    """
    from sklearn.model_selection import KFold, StratifiedKFold

    rows = len(targets)
    if outputs == "classes":
        fewest = int(np.unique(targets, return_counts=True)[1].min())
        if min(folds, fewest) >= 2:
            yield from StratifiedKFold(min(folds, fewest), shuffle=True, random_state=SEED).split(targets, targets)
    elif min(folds, rows) >= 2:
        yield from KFold(min(folds, rows), shuffle=True, random_state=SEED).split(targets)


@dataclass(frozen=True)
class _Fold:
    """Features of a fold."""

    fitted: Any
    held_out: Any
    targets: np.ndarray
    held_out_targets: np.ndarray
    form: Form

    @classmethod
    def of(
        cls,
        config: Classical,
        table: RowTable,
        frame: Any,
        targets: np.ndarray,
        fitted_n: np.ndarray,
        held_out_n: np.ndarray,
    ) -> _Fold:
        """Fit the features to the rows of a fold."""
        rows, others = frame.iloc[fitted_n], frame.iloc[held_out_n]
        features, form = feature_pipeline(config, table, rows)
        fitted = features.fit_transform(rows)
        return cls(fitted, features.transform(others), targets[fitted_n], targets[held_out_n], form)

    def loss(self, classifier: ClassicalModel, outputs: Outputs) -> float:
        """Return the mean loss of the held-out rows, see `Tried`."""
        model = estimator(classifier, self.targets, outputs, self.form).fit(self.fitted, self.targets)
        if outputs == "numbers":
            errors = (model.predict(self.held_out) - self.held_out_targets) ** 2
            return float((errors / np.maximum(self.targets.var(axis=0), 1e-12)).mean())
        predicted = np.clip(model.predict_proba(self.held_out), LEAST, 1 - LEAST)
        if outputs == "tags":
            right = np.where(self.held_out_targets == 1, predicted, 1 - predicted)
        else:
            right = predicted[np.arange(len(predicted)), np.searchsorted(model.classes_, self.held_out_targets)]
        return float(-np.log(right).mean())
