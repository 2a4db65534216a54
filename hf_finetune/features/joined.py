"""The linear model of words and a linear head on an encoder's features as one linear model of both.

A weighted mean of the log-probabilities of two linear models (a logarithmic opinion pool, Genest and Zidek, 1986) is
itself linear in the features of both: logistic regression on all of them, whose coefficients are those of the two
models times their weights. So it is a stock pipeline of scikit-learn, and costs no fit beyond that of the linear model.

Legend: N rows, C classes, D features of the encoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Self

import numpy as np
from datasets import Dataset

from hf_finetune.data.labels import labels_of
from hf_finetune.errors import InputError
from hf_finetune.evaluation.calibration import least_log_loss, temperature
from hf_finetune.features.classical import FittedClassical, targets_of
from hf_finetune.features.config import Classical, EncoderFeatures
from hf_finetune.features.encoder_states import POOLINGS
from hf_finetune.features.pipelines import estimator, feature_pipeline, logits_of, quiet_fit
from hf_finetune.features.table import RowTable

SHARES = (0.5, 0.35, 0.65, 0.2, 0.8)
"""Weights of the linear model that are compared."""
LEAST_CORRELATION = 0.99
"""Of the logits of a network with those of its head on the features of an extractor, row by row."""


@dataclass(frozen=True)
class Pool:
    """How the log-probabilities of a linear model and of a head are weighed."""

    share: float
    """Weight of the linear model, from 0 to 1; that of the head is the rest."""
    temperature: float
    """Divisor of their mean."""

    @classmethod
    def fitted(cls, labels_N: np.ndarray, linear_NC: np.ndarray, head_NC: np.ndarray) -> Self:
        """Return the weights with the least log loss at its best temperature.

        Args:
            labels_N: class of each row, none of which has trained a model.
            linear_NC, head_NC: probabilities. A class that has none by the linear model was not among its rows: what
                both say of it is not weighed.
        """
        is_known_N = np.isin(labels_N, np.flatnonzero(linear_NC.any(axis=0)))
        labels_N, linear_NC, head_NC = labels_N[is_known_N], linear_NC[is_known_N], head_NC[is_known_N]
        means = {share: cls(share, 1.0).logits(linear_NC, head_NC) for share in SHARES}
        share = min(SHARES, key=lambda each: least_log_loss(labels_N, means[each]))
        return cls(share, temperature(labels_N, means[share]))

    def logits(self, linear_NC: np.ndarray, head_NC: np.ndarray) -> np.ndarray:
        """Return the weighted mean of log-probabilities, shape (N, C)."""
        linear, head = logits_of(linear_NC, "classes"), logits_of(head_NC, "classes")
        return (self.share * linear + (1 - self.share) * head) / self.temperature


def cross_fitted(labels_N: np.ndarray, linear_NC: np.ndarray, head_NC: np.ndarray) -> np.ndarray:
    """Return the logits of rows by the weights that suit the other half of the rows: what those of all do with new
    rows."""
    logits_NC, order = np.zeros_like(linear_NC), np.random.default_rng(0).permutation(len(labels_N))
    halves = np.array_split(order, 2)
    for half, rest in (halves, halves[::-1]):
        pool = Pool.fitted(labels_N[rest], linear_NC[rest], head_NC[rest])
        logits_NC[half] = pool.logits(linear_NC[half], head_NC[half])
    return logits_NC


@dataclass(frozen=True)
class EncoderHead:
    """A linear head on the features of an extractor."""

    extractor: EncoderFeatures
    is_normalized: bool
    """Whether it reads features of length 1."""
    weight_CD: np.ndarray
    bias_C: np.ndarray

    @classmethod
    def of(
        cls,
        extractor: EncoderFeatures,
        layers: Sequence[int],
        weight_CD: np.ndarray,
        rows: Dataset,
        head_NC: np.ndarray,
    ) -> Self:
        """Return the linear head of a network as one on the features of an extractor.

        A network may bend what its head reads: `GatherMean` reads the mean of the tokens through a LayerNorm and a
        nearly linear layer. Scale and bias are those that come nearest to its logits, by least squares.

        Args:
            extractor: of the encoder, of any layer and pooling.
            layers: those that the head may read.
            weight_CD: of the network's head, up to a factor.
            rows: some rows of text.
            head_NC: their probabilities by the network.

        Raises:
            InputError: the head reads something else.
        """
        from sklearn.preprocessing import normalize

        table = RowTable.of(rows, [replace(extractor, layer=n, pooling=way) for n in layers for way in POOLINGS])
        candidates = [each for each in table.extractors if isinstance(each, EncoderFeatures)]
        computed = EncoderFeatures.compute_all(candidates, rows, table.columns)
        best, closest = None, LEAST_CORRELATION
        for each, is_normalized in product(candidates, (True, False)):
            features_ND = computed[each][1].astype(np.float64)
            if features_ND.shape[1] != weight_CD.shape[1]:
                continue
            logits_NC = (normalize(features_ND) if is_normalized else features_ND) @ weight_CD.T
            slope, bias_C, correlation = _nearest(_centered(logits_NC), _centered(logits_of(head_NC, "classes")))
            if slope > 0 and correlation > closest:
                best, closest = cls(each, is_normalized, slope * weight_CD, bias_C), correlation
        if best is None:
            raise InputError("the head reads other features than the mean, the first or the largest of the tokens")
        return best


def _nearest(logits_NC: np.ndarray, target_NC: np.ndarray) -> tuple[float, np.ndarray, float]:
    """Return the factor and the bias (C,) that bring logits nearest to others, and how the differences between rows are
    correlated: a bias alone would make classes of different frequency agree."""
    mean_C, target_C = logits_NC.mean(axis=0), target_NC.mean(axis=0)
    varying_NC, wanted_NC = logits_NC - mean_C, target_NC - target_C
    size, wanted_size = float(np.square(varying_NC).sum()), float(np.square(wanted_NC).sum())
    if size <= 0 or wanted_size <= 0:
        return 0.0, target_C, 0.0
    shared = float((varying_NC * wanted_NC).sum())
    return shared / size, target_C - shared / size * mean_C, shared / float(np.sqrt(size * wanted_size))


def _centered(logits_NC: np.ndarray) -> np.ndarray:
    """Return logits whose mean over the classes is 0, which leaves the probabilities as they are."""
    return logits_NC - logits_NC.mean(axis=1, keepdims=True)


def fit_joined(
    config: Classical,
    train: Dataset,
    head: EncoderHead,
    pool: Pool,
    *,
    labels: Sequence[str],
    names: Mapping[str, str] | None = None,
) -> FittedClassical:
    """Fit the linear model, and return the pipeline of both.

    Args:
        config: a linear model of fixed fields, with its extractors and, as the last one, that of the head.
        train, labels, names: see `fit_classical`; of classes. No row is read by the encoder.

    Raises:
        InputError: an extractor has nothing to read, or leaves no feature.
    """
    from sklearn.pipeline import Pipeline

    assert config.extractors[-1] == head.extractor, "the coefficients of the head are the last ones"
    table = RowTable.of(train, config.extractors, names)
    alone = replace(table, extractors=table.extractors[:-1])
    frame, targets = alone(train), targets_of(labels_of(train), labels, "classes")
    with quiet_fit():
        features, form = feature_pipeline(config, alone, frame)
        model = estimator(config.classifier, targets, "classes", form)
        model.fit(features.fit_transform(frame), targets)
    _join(model, head, pool, [list(labels).index(name) for name in model.classes_])
    pipeline = Pipeline([("features", _with_features_of(head, features, frame)), ("classifier", model)])
    return FittedClassical(pipeline, table, tuple(labels), "classes", config.classifier)


def _with_features_of(head: EncoderHead, features: Any, frame: Any) -> Any:
    """Return fitted features with those that a head reads beside them.

    Args:
        frame: the table without the columns of the encoder.
    """
    import pandas as pd
    from sklearn.compose import ColumnTransformer
    from sklearn.frozen import FrozenEstimator
    from sklearn.preprocessing import Normalizer

    columns = [f"{head.extractor.prefix}{i}" for i in range(head.weight_CD.shape[1])]
    reader = Normalizer() if head.is_normalized else "passthrough"
    parts = [("linear", FrozenEstimator(features), list(frame.columns)), ("encoder", reader, columns)]
    # A row is enough to fit what is left, which learns nothing of rows.
    row = pd.DataFrame(np.zeros((1, len(columns)), np.float32), columns=columns, index=frame.index[:1])
    return ColumnTransformer(parts, sparse_threshold=1).fit(pd.concat([frame.iloc[:1], row], axis=1))


def _join(model: Any, head: EncoderHead, pool: Pool, classes: Sequence[int]) -> None:
    """Give a fitted logistic regression the features of a head, too.

    Args:
        classes: number of each of its classes.
    """
    coefficients, intercept = model.coef_, model.intercept_
    weight_CD, bias_C = head.weight_CD[classes], head.bias_C[classes]
    if len(classes) == 2:
        # The logit of the second class alone.
        weight_CD, bias_C = weight_CD[1:] - weight_CD[:1], bias_C[1:] - bias_C[:1]
    linear, encoder = pool.share / pool.temperature, (1 - pool.share) / pool.temperature
    model.coef_ = np.hstack([linear * coefficients, encoder * weight_CD]).astype(np.float64)
    model.intercept_ = np.asarray(linear * intercept + encoder * bias_C, np.float64)
    model.n_features_in_ = model.coef_.shape[1]
