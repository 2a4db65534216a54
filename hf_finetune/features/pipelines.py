"""Pipelines of scikit-learn: features, and a classifier or regressor on them.

Legend: N rows, C outputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from scipy import sparse

from hf_finetune.errors import InputError
from hf_finetune.features.classifiers.base import ClassicalModel, Form, TrainingTable
from hf_finetune.features.config import Classical, NaiveBayes
from hf_finetune.features.extractors.base import SEED, Computed, Part
from hf_finetune.features.table import RowTable
from hf_finetune.utils.messages import one_line

Outputs = Literal["classes", "tags", "numbers"]
LEAST_PROBABILITY = 1e-12
"""Probabilities of 0 have a finite logarithm."""


@contextmanager
def quiet_fit() -> Iterator[None]:
    """Silence what scikit-learn warns of in small data: solvers that stop early, rare classes, constant features.

    Raises:
        InputError: an extractor or a transform leaves no feature of these rows.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="sklearn")
        try:
            yield
        except ValueError as error:
            # Such as an empty vocabulary, or no feature above a threshold.
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"these rows do not suit the extractors, transforms or the classifier: {one_line(error)}; change them"
            ) from None


def build_pipeline(config: Classical, table: RowTable, frame: Any, targets: np.ndarray, outputs: Outputs) -> Any:
    """Return a pipeline that is not fitted yet, with the steps `features` and `classifier`.

    Args:
        frame: the table of the training rows, by which numbers of components and neighbors are limited.
        targets: see `classical.targets_of`.

    Raises:
        InputError: the classifier is not for these outputs, or cannot be fitted to these rows.
    """
    from sklearn.pipeline import Pipeline

    features, form = feature_pipeline(config, table, frame)
    model = estimator(config.classifier, targets, outputs, form)
    return Pipeline([("features", features), ("classifier", model)])


def feature_pipeline(config: Classical, table: RowTable, frame: Any, *, scaled: bool = True) -> tuple[Any, Form]:
    """Return the step `features` of a pipeline, and their form.

    Args:
        scaled: standardize what is computed of each row by itself.
    """
    from sklearn.base import clone
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline

    reduces = config.classifier.needs_dense and not any(each.makes_dense for each in config.transforms)
    computed = [name for name in frame.columns if name not in table.canonical]
    parts: list[Part] = []
    for extractor in table.extractors:
        if isinstance(extractor, Computed):
            parts.append(extractor.part(computed, scaled=scaled))
        else:
            parts += extractor.parts(table.columns)
    is_sparse = any(part.is_sparse for part in parts) and not reduces
    if reduces:
        parts = [_reduced(part, frame, config.components) for part in parts]
    if is_sparse and isinstance(config.classifier, NaiveBayes):
        parts = [_not_negative(part) for part in parts]
    named = [(f"{part.name}-{i}" if i else part.name, part.transformer, part.columns) for i, part in enumerate(parts)]
    # Sparse and dense features together are sparse, however many there are.
    columns = ColumnTransformer(named, sparse_threshold=1 if is_sparse else 0)
    form: Form = "dense" if not is_sparse else "sparse" if all(part.is_sparse for part in parts) else "mixed"
    if not config.transforms:
        return columns, form
    steps, features = [("columns", columns)], frame
    for i, transform in enumerate(config.transforms):
        # Each is limited by what the steps below make of these rows. The last one has none above it.
        features = clone(steps[-1][1]).fit_transform(features)
        step = transform.step(features.shape, is_sparse=sparse.issparse(features))
        steps.append((f"{i}-{type(transform).__name__}", step))
    return Pipeline(steps), "dense" if config.transforms[-1].makes_dense or not sparse.issparse(features) else form


def _reduced(part: Part, frame: Any, components: int) -> Part:
    """Return a part whose features are few and dense."""
    from sklearn.base import clone
    from sklearn.decomposition import TruncatedSVD
    from sklearn.pipeline import Pipeline

    if not part.is_sparse:
        return part
    shape = clone(part.transformer).fit_transform(frame[part.columns]).shape
    reduction = TruncatedSVD(min(components, *shape), random_state=SEED)
    return part._replace(transformer=Pipeline([("counts", part.transformer), ("reduce", reduction)]))


def _not_negative(part: Part) -> Part:
    """Return a part whose features are from 0 to 1, as counts are not negative."""
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import MinMaxScaler

    if part.is_sparse:
        return part
    return part._replace(transformer=Pipeline([("read", part.transformer), ("range", MinMaxScaler(clip=True))]))


def estimator(classifier: ClassicalModel, targets: np.ndarray, outputs: Outputs, form: Form) -> Any:
    """Return the classifier of classes or tags, or the regressor, of scikit-learn.

    Raises:
        InputError: see `build_pipeline`.
    """
    data = TrainingTable(form, len(targets), fewest_rows(targets, outputs))
    if outputs == "numbers":
        from sklearn.multioutput import MultiOutputRegressor

        model = classifier.regressor(data)
        return MultiOutputRegressor(model) if targets.ndim == 2 else model
    if outputs == "classes":
        return classifier.build(data)
    from sklearn.multiclass import OneVsRestClassifier

    return OneVsRestClassifier(classifier.build(data))


def fewest_rows(targets: np.ndarray, outputs: Outputs) -> int:
    """Return the rows of the smallest class, or the fewest that have or lack a tag that varies; of numbers all."""
    rows = len(targets)
    if outputs == "classes":
        return int(np.unique(targets, return_counts=True)[1].min())
    if outputs == "numbers":
        return rows
    counts = targets.sum(axis=0)
    return int(np.minimum(counts, rows - counts)[(counts > 0) & (counts < rows)].min(initial=rows))


def scores_of(pipeline: Any, table: Any, labels: Sequence[str], outputs: Outputs) -> np.ndarray:
    """Return what a fitted pipeline predicts for a table, shape (N, C); 0 for classes without training rows."""
    if outputs == "numbers":
        return np.asarray(pipeline.predict(table), dtype=np.float64).reshape(len(table), len(labels))
    predicted = np.asarray(pipeline.predict_proba(table), dtype=np.float64)
    if outputs == "tags":
        return predicted
    return placed(predicted, pipeline.classes_, labels)


def placed(predicted: np.ndarray, classes: Sequence[Any], labels: Sequence[str]) -> np.ndarray:
    """Return the probabilities of classes in the order of the labels, shape (N, C); 0 for those that are missing."""
    ids = {name: i for i, name in enumerate(labels)}
    scores_NC = np.zeros((len(predicted), len(labels)))
    scores_NC[:, [ids[str(name)] for name in classes]] = predicted
    return scores_NC


def logits_of(scores_NC: np.ndarray, outputs: Outputs) -> np.ndarray:
    """Return logits of probabilities, or the numbers."""
    if outputs == "numbers":
        return scores_NC
    logits_NC = np.log(np.maximum(scores_NC, LEAST_PROBABILITY))
    return logits_NC if outputs == "classes" else logits_NC - np.log(np.maximum(1 - scores_NC, LEAST_PROBABILITY))
