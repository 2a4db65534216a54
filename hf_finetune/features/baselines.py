"""Baselines without a pretrained network: the majority class, and a linear model of words or pixels.

Legend: N rows, C classes, F features.
"""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from hf_finetune.features.classifiers.base import Form
from hf_finetune.features.classifiers.linear_model import LinearModel
from hf_finetune.features.config import Classical
from hf_finetune.features.extractors.base import SEED
from hf_finetune.features.pipelines import estimator, feature_pipeline, quiet_fit
from hf_finetune.features.table import LONG_TEXT, TEXTS, RowTable

logger = logging.getLogger("hf_finetune")

BASELINE = LinearModel(inverse_strength=10.0)
"""The classifier of texts."""
BASELINE_OF_IMAGES = LinearModel(inverse_strength=0.01)
"""That of images: with few dense pixels a weak penalty would fit noise."""
MAX_CHARACTERS = 20_000_000
"""Limit of the training texts: about 10 s of counting words."""
MAX_IMAGES = 10_000
"""Limit of the training images: about 10 s of decoding photographs."""
MIN_ROWS = 1_000
"""Least number of training rows, whatever the length of their texts."""


@dataclass(frozen=True)
class Baseline:
    """Predictions of a simple model, to compare with the fine-tuned one."""

    name: str
    """Such as majority, tfidf+logistic or pixels+ridge."""
    scores_NC: Any
    """float64: probabilities, 0 for classes without training rows; or numbers. `Ragged` of words."""


def majority(train: Dataset, rows: Dataset, *, num_labels: int) -> Baseline:
    """Predict the class frequencies of the training rows for every row; their argmax is the majority class.

    Args:
        train: training rows with the column `label`.
        rows: rows to predict.
        num_labels: number of classes C.
    """
    shares_C = np.bincount(_labels(train), minlength=num_labels) / len(train)
    return Baseline("majority", np.tile(shares_C, (len(rows), 1)))


def linear_baseline(train: Dataset, rows: Dataset, *, num_labels: int) -> Baseline:
    """Fit a `LinearModel` to the default features, see `shallow_features`.

    Large training splits are subsampled to MAX_CHARACTERS or MAX_IMAGES, which is logged.

    Args:
        train: training rows with the columns `label` and `text`, perhaps `text_pair`, or `image`.
        rows: rows to predict.
        num_labels: number of classes C.
    """
    kind, features, test, chosen, form = shallow_features(train, rows)
    classifier = BASELINE_OF_IMAGES if "image" in train.column_names else BASELINE
    labels_N = _labels(train)[chosen]
    model = estimator(classifier, labels_N, "classes", form)
    with quiet_fit():
        model.fit(features, labels_N)
    probabilities_NC = np.zeros((len(rows), num_labels))
    probabilities_NC[:, model.classes_] = model.predict_proba(test)
    return Baseline(f"{kind}+logistic", probabilities_NC)


def shallow_features(train: Dataset, rows: Dataset) -> tuple[str, Any, Any, np.ndarray, Form]:
    """Return the default features of method classical: TF-IDF of words, k-mers of sequences, or standardized pixels.

    Args:
        train: training rows, subsampled as `linear_baseline` says.
        rows: rows to predict.

    Returns:
        Their name (tfidf, tfidf+overlap of pairs, 6-mers, or pixels), the features of the training rows and of `rows`,
        shape (N, F), the indices of the training rows, and the form of the features.
    """
    chosen = rows_within_limits(train)
    drawn = train.select(chosen)
    table = RowTable.of(drawn)
    frame = table(drawn)
    features, form = feature_pipeline(Classical(), table, frame)
    name = "+".join(extractor.name for extractor in table.extractors)
    fitted, scored = features.fit_transform(frame), features.transform(table(rows))
    if form == "dense":  # rows one after the other in memory, by which sums are rounded
        fitted, scored = map(np.ascontiguousarray, (fitted, scored))
    return name, fitted, scored, chosen, form


def rows_within_limits(train: Dataset) -> np.ndarray:
    """Return the sorted indices of the training rows to which a linear model is fitted in seconds: all, or a sample."""
    if "image" in train.column_names:
        return _subsample(np.ones(len(train)), MAX_IMAGES, "images")
    columns = [column for column in TEXTS if column in train.column_names]
    sizes = [[min(len(text or ""), LONG_TEXT) for text in train[column][:]] for column in columns]
    return _subsample(np.sum(sizes, axis=0), MAX_CHARACTERS, "characters")


def _labels(rows: Dataset) -> np.ndarray:
    return np.asarray(rows["label"][:], dtype=np.int64)


def _subsample(sizes: np.ndarray, limit: int, unit: str) -> np.ndarray:
    """Return the sorted indices of as many random rows as have a total size of `limit`."""
    if sizes.sum() <= limit:
        return np.arange(len(sizes))
    order = np.random.default_rng(SEED).permutation(len(sizes))
    count = max(MIN_ROWS, int(np.searchsorted(np.cumsum(sizes[order]), limit, side="right")))
    if count >= len(sizes):
        return np.arange(len(sizes))
    logger.info("linear baseline: fitted on %d of %d training rows (%d %s)", count, len(sizes), limit, unit)
    return np.sort(order[:count])
