"""Linear probe before fine-tuning: the head starts where logistic regression on frozen features ends.

A head that starts at random sends noise into the pretrained layers for the first steps and, with many classes, needs a
learning rate of its own; one that starts fitted does neither (Kumar et al., arXiv:2202.10054). Where the untrained
features tell next to nothing of the labels it is the other way round: the fitted head holds the network to the wrong
features. How much they tell is measured on rows that the fit has not seen.

Legend: N rows, D features, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_finetune.data.inputs import EpochRows
from hf_finetune.evaluation.logits import Collate, predict_logits

# Features of more rows than this change the fitted head little and cost a forward pass each.
MOST_ROWS = 5_000
# A feature counts as varying by no less than this share of the features' size (root mean square). Where they hardly
# vary (.008 of their size after a network lost its top layers; .5 in a whole one), weights that made up for it would
# throw the logits far off as soon as training moves the features at all.
LEAST_DEVIATION = 0.05
# scikit-learn's C of the fit that tells how much the features explain: with a stronger penalty, which the start of a
# head is better for, the answer would depend on the number of rows and classes more than on the features.
MEASURED_AT = 0.1


@dataclass(frozen=True)
class Fit:
    """How a head is fitted, and when it is taken."""

    inverse_strength: float
    """scikit-learn's C, the inverse of the L2 penalty."""
    least_explained: float
    """Of `FittedHead.explained`, for the head to be taken."""


def default_fit(method: str) -> Fit:
    """What a method's runs start with unless told otherwise; docs/benchmarks.md has the evidence.

    Args:
        method: see `Recipe.effective_method`.
    """
    return Fit(0.1, -math.inf) if method == "head" else Fit(0.01, 0.2)


@dataclass(frozen=True)
class FittedHead:
    """Logistic regression in the place of a classification layer."""

    weight_CD: torch.Tensor
    """Float32, such that `features @ weight.T + bias` are the logits."""
    bias_C: torch.Tensor
    """Likewise."""
    explained: float
    """Share of the labels' entropy that a fit explains of rows it has not seen: 1 - log loss / entropy (McFadden's R^2,
    out of fold, at the penalty `MEASURED_AT`). 1: all of it; 0: as much as the classes' frequencies; below 0: less."""


class NotOfRows(Exception):
    """A classification layer is asked about tokens, and a row's logits are made of theirs: no features of a row go into
    it."""


def with_every_class(chosen_n: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Rows that were drawn, and of each class without one among them the first: a layer has no weights for what it
    never saw.

    Args:
        chosen_n: numbers of the rows.
        labels_N: class of each row; below 0 of those without a label.
    """
    classes, first = np.unique(labels_N, return_index=True)
    return np.concatenate([chosen_n, first[(classes >= 0) & ~np.isin(classes, labels_N[chosen_n])]])


def head_features(
    model: nn.Module,
    layers: Sequence[nn.Linear],
    rows: EpochRows,
    collate: Collate,
    *,
    batch_size: int = 64,
    autocast: torch.dtype | None = None,
    progress: str | None = None,
) -> list[np.ndarray]:
    """Inputs of the model's classification `layers` for every row, in row order. Of each layer shape (N, D), float32.

    Raises:
        NotOfRows: as with EuroBERT, whose last act is the mean of tokens' logits.
    """
    seen: dict[nn.Module, list[torch.Tensor]] = {layer: [] for layer in layers}

    def note(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].dim() > 2:
            raise NotOfRows
        seen[layer].append(inputs[0].detach().float().cpu())

    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        predict_logits(model, rows, collate, batch_size=batch_size, autocast=autocast, progress=progress)
    finally:
        for handle in handles:
            handle.remove()
    return [torch.cat(parts).numpy() for parts in seen.values()]


def fit_head(
    features_ND: np.ndarray,
    labels_N: np.ndarray,
    num_labels: int,
    *,
    inverse_strength: float,
    weights_N: np.ndarray | None = None,
    first_N: np.ndarray | None = None,
) -> FittedHead:
    """Multinomial logistic regression on standardized features, the standardization folded into its weights.

    Args:
        features_ND: shape (N, D).
        labels_N: shape (N,), class indices; every class of `num_labels` should be there, an absent one gets zeros.
        inverse_strength: scikit-learn's C, the inverse of the L2 penalty.
        weights_N: shape (N,), what each row counts. None: all the same.
        first_N: shape (N,), of each row the first of those that it repeats, see `data.duplicates.first_sources`. None:
        none does.
    """
    mean, size = features_ND.mean(0), float(np.sqrt(np.square(features_ND, dtype=np.float64).mean()))
    scale = np.maximum(features_ND.std(0), LEAST_DEVIATION * size or 1.0)
    standard_ND = (features_ND - mean) / scale
    counts_N = np.ones(len(labels_N)) if weights_N is None else weights_N
    first_N = np.arange(len(labels_N)) if first_N is None else first_N
    probe = _regression(standard_ND, labels_N, counts_N, inverse_strength)
    coefficients, intercept = probe.coef_, probe.intercept_
    if len(probe.classes_) == 2:
        # scikit-learn keeps one row for two classes: the logit of the second, shared out evenly.
        coefficients, intercept = np.stack([-coefficients[0], coefficients[0]]) / 2, np.array([-1, 1]) * intercept / 2
    weight = np.zeros((num_labels, features_ND.shape[1]))
    bias = np.zeros(num_labels)
    weight[probe.classes_] = coefficients / scale
    bias[probe.classes_] = intercept - (coefficients / scale) @ mean
    return FittedHead(
        torch.tensor(weight, dtype=torch.float32),
        torch.tensor(bias, dtype=torch.float32),
        _explained(standard_ND, labels_N, counts_N, first_N),
    )


def _regression(features_ND: np.ndarray, labels_N: np.ndarray, counts_N: np.ndarray, inverse_strength: float) -> Any:
    # Half a second that a run which finds its head stored need not wait for.
    from sklearn.linear_model import LogisticRegression

    probe = LogisticRegression(C=inverse_strength, max_iter=200, tol=1e-3)
    return probe.fit(features_ND, labels_N, sample_weight=counts_N)


def _explained(features_ND: np.ndarray, labels_N: np.ndarray, counts_N: np.ndarray, first_N: np.ndarray) -> float:
    """See `FittedHead.explained`: each half of the rows is answered by the fit to the other."""
    # A row that stands many times, as rare classes' do where somebody wrote them again and again, is on one side alone.
    distinct, source_N = np.unique(first_N, return_inverse=True)
    drawn = np.array_split(np.random.default_rng(0).permutation(len(distinct)), 2)
    halves = [np.flatnonzero(np.isin(source_N, half)) for half in drawn]
    # A class that the other half lacks is as likely as one row among all.
    likelihood_N = np.full(len(labels_N), 1 / len(labels_N))
    for held_out, fitted in (halves, halves[::-1]):
        if len(set(labels_N[fitted])) < 2:
            return 0.0
        probe = _regression(features_ND[fitted], labels_N[fitted], counts_N[fitted], MEASURED_AT)
        places = np.searchsorted(probe.classes_, labels_N[held_out])
        known = np.isin(labels_N[held_out], probe.classes_)
        answers = probe.predict_proba(features_ND[held_out[known]])
        likelihood_N[held_out[known]] = answers[np.arange(len(answers)), places[known]]
    frequency_N = (np.bincount(labels_N, counts_N) / counts_N.sum())[labels_N]

    def log_loss(p_N: np.ndarray) -> float:
        # A probability of 0 comes of rounding, or of rows that count nothing.
        return -float(np.average(np.log(np.maximum(p_N, np.finfo(float).tiny)), weights=counts_N))

    return 1 - log_loss(likelihood_N) / log_loss(frequency_N)
