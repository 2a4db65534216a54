"""Linear probe before fine-tuning: the head starts with the weights of logistic regression on frozen features.

A random head sends noise into the pretrained layers in the first steps and, with many classes, needs its own learning
rate; a fitted head does not (Kumar et al., arXiv:2202.10054). Where the untrained features say little about the labels,
a fitted head does harm: it ties the network to the wrong features. Held-out rows measure how much they say.

Legend: N rows, D features, C classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_finetune.data.inputs import EpochRows
from hf_finetune.data.long.sliding import VOTES
from hf_finetune.data.long.windows import mean_of_windows
from hf_finetune.evaluation.calibration import least_log_loss
from hf_finetune.evaluation.logits import Collate, predict_logits
from hf_finetune.utils.core_sharing import blas_on_one_core

MOST_ROWS = 5_000
"""Rows that a head is fitted to. More change it little and cost a forward pass each."""
MOST_WORDS = 20_000
"""Words that a head is fitted to, where a row has several."""
LEAST_DEVIATION = 0.05
"""Least standard deviation by which features are divided, as a share of their root mean square. Where features hardly
vary (0.008 after a network lost its top layers; 0.5 in a whole one), large weights would throw the logits far off as
soon as training moves the features."""
MEASURED_AT = 0.1
"""scikit-learn's C of the fit that measures how much the features explain. With the stronger penalty that suits the
start of a head, the measure would depend more on the number of rows and classes than on the features."""
STRONGER = (0.03, 0.01, 0.003, 0.001)
"""Values of scikit-learn's C that method head tries beside its default: two classes need a stronger penalty than 77.
The log loss of held-out halves chooses, each at its best temperature: a temperature follows, so that the penalty need
not make the probabilities right. See docs/benchmarks.md#choice-of-the-defaults."""
MOST_COMPARED = 100_000
"""Rows times classes up to which the penalty is chosen. Beyond, the fits take seconds, and a penalty matters less."""


@dataclass(frozen=True)
class Fit:
    """How a head is fitted, and when it is used."""

    inverse_strength: float
    """scikit-learn's C, the inverse of the L2 penalty."""
    least_explained: float
    """Least `FittedHead.explained` of a head that is used."""
    stronger: tuple[float, ...] = ()
    """See `fit_head`."""


def default_fit(method: str) -> Fit:
    """Return the default fit of a method, see docs/benchmarks.md for the evidence.

    Args:
        method: see `Recipe.effective_method`.
    """
    return Fit(0.1, -math.inf, STRONGER) if method == "head" else Fit(0.01, 0.2)


@dataclass(frozen=True)
class FittedHead:
    """Logistic regression as the weights of a classification layer."""

    weight_CD: torch.Tensor
    """Float32. The logits are `features @ weight.T + bias`."""
    bias_C: torch.Tensor
    explained: float
    """Share of the labels' entropy explained on held-out rows: 1 - log loss / entropy (McFadden's R^2, out of fold, at
    the penalty `MEASURED_AT`). 1: all; 0: no more than the class frequencies; below 0: less."""


@dataclass(frozen=True)
class Standardized:
    """Features with mean 0 and deviation 1, except where they hardly vary, see `LEAST_DEVIATION`."""

    features_ND: np.ndarray
    mean_D: np.ndarray
    scale_D: np.ndarray

    @classmethod
    def of(cls, features_ND: np.ndarray) -> "Standardized":
        """Standardize features, shape (N, D)."""
        mean_D, size = features_ND.mean(0), float(np.sqrt(np.square(features_ND, dtype=np.float64).mean()))
        scale_D = np.maximum(features_ND.std(0), LEAST_DEVIATION * size or 1.0)
        return cls((features_ND - mean_D) / scale_D, mean_D, scale_D)

    def fold(self, weight_CD: np.ndarray, bias_C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return weight and bias for the features as they were, from those for the standardized ones."""
        return weight_CD / self.scale_D, bias_C - (weight_CD / self.scale_D) @ self.mean_D


class NotOfRows(Exception):
    """The classification layer reads tokens, not rows: a row's logits are computed from its tokens' logits."""


def with_every_class(chosen_n: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Add to the drawn rows the first row of each class that they lack: a layer cannot predict a class it never saw.

    Args:
        chosen_n: indices of the drawn rows.
        labels_N: class of each row; below 0 for rows without a label.
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
    """Return the inputs of each classification layer for all rows, in row order: shape (N, D), float32.

    Of windows that vote, their mean: a linear layer gives it the mean of their logits.

    Raises:
        NotOfRows: the layer reads tokens, as in EuroBERT, which averages the tokens' logits.
    """
    features: dict[nn.Module, list[torch.Tensor]] = {layer: [] for layer in layers}
    votes: list[torch.Tensor | None] = []

    def counting(batch: Any) -> dict[str, torch.Tensor]:
        tensors = collate(batch)
        votes.append(tensors.get(VOTES))
        return tensors

    def note(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].dim() > 2:
            raise NotOfRows
        read = inputs[0].detach().float().cpu()
        features[layer].append(read if votes[-1] is None else mean_of_windows(read, votes[-1]))

    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        predict_logits(model, rows, counting, batch_size=batch_size, autocast=autocast, progress=progress)
    finally:
        for handle in handles:
            handle.remove()
    return [torch.cat(parts).numpy() for parts in features.values()]


def fit_head(
    features_ND: np.ndarray,
    labels_N: np.ndarray,
    num_labels: int,
    *,
    inverse_strength: float,
    stronger: Sequence[float] = (),
    weights_N: np.ndarray | None = None,
    first_N: np.ndarray | None = None,
    explains: bool = True,
) -> FittedHead:
    """Fit multinomial logistic regression to standardized features, and fold the standardization into its weights.

    Args:
        features_ND: shape (N, D).
        labels_N: shape (N,), class indices. A class without rows gets zeros.
        inverse_strength: scikit-learn's C, the inverse of the L2 penalty.
        stronger: further values of it, of all of which the log loss of held-out halves chooses, see `MOST_COMPARED`.
        weights_N: shape (N,), weight of each row. None: equal weights.
        first_N: shape (N,), index of the first row that each row repeats, see `data.duplicates.first_sources`. None: no
            repeats.
        explains: measure `FittedHead.explained`, else it is NaN.
    """
    standard = Standardized.of(features_ND)
    counts_N = np.ones(len(labels_N)) if weights_N is None else weights_N
    first_N = np.arange(len(labels_N)) if first_N is None else first_N
    held_out = cache(partial(_HeldOut.of, standard.features_ND, labels_N, counts_N, first_N))
    is_compared = bool(stronger) and len(labels_N) * num_labels <= MOST_COMPARED
    tried = (inverse_strength, *stronger)
    chosen = min(tried, key=lambda each: held_out(each).loss) if is_compared else inverse_strength
    probe = _regression(standard.features_ND, labels_N, counts_N, chosen)
    weight, bias = np.zeros((num_labels, features_ND.shape[1])), np.zeros(num_labels)
    weight[probe.classes_], bias[probe.classes_] = standard.fold(*_of_each_class(probe))
    return FittedHead(
        torch.tensor(weight, dtype=torch.float32),
        torch.tensor(bias, dtype=torch.float32),
        held_out(MEASURED_AT).explained if explains else math.nan,
    )


def _of_each_class(probe: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the coefficients and the intercept of each class."""
    coefficients, intercept = probe.coef_, probe.intercept_
    if len(probe.classes_) > 2:
        return coefficients, intercept
    # scikit-learn has one row for two classes, the logit of the second: split it between both.
    return np.stack([-coefficients[0], coefficients[0]]) / 2, np.array([-1, 1]) * intercept / 2


def _regression(features_ND: np.ndarray, labels_N: np.ndarray, counts_N: np.ndarray, inverse_strength: float) -> Any:
    # Imported here: a run that finds its head cached saves half a second.
    from sklearn.linear_model import LogisticRegression

    probe = LogisticRegression(C=inverse_strength, max_iter=200, tol=1e-3)
    # Of finite numbers a product of OpenBLAS once raised the flag of an invalid one. What is not finite is refused by
    # scikit-learn itself.
    with np.errstate(invalid="ignore"), blas_on_one_core():
        return probe.fit(features_ND, labels_N, sample_weight=counts_N)


def halves_of(first_N: np.ndarray) -> list[np.ndarray]:
    """Return the indices of two random halves of the rows.

    Repeats of a row, as in an oversampled rare class, stay on one side.

    Args:
        first_N: index of the first row that each row repeats.
    """
    distinct, source_N = np.unique(first_N, return_inverse=True)
    drawn = np.array_split(np.random.default_rng(0).permutation(len(distinct)), 2)
    return [np.flatnonzero(np.isin(source_N, half)) for half in drawn]


@dataclass(frozen=True)
class _HeldOut:
    """What fits to one half of the rows say of the other half."""

    places_N: np.ndarray
    """Class of each row, of those that there are."""
    counts_N: np.ndarray
    log_NC: np.ndarray | None
    """Log-probabilities of these classes. None: a half has one class alone."""

    @classmethod
    def of(
        cls,
        features_ND: np.ndarray,
        labels_N: np.ndarray,
        counts_N: np.ndarray,
        first_N: np.ndarray,
        inverse_strength: float,
    ) -> "_HeldOut":
        """Fit at a penalty."""
        halves, (classes, places_N) = halves_of(first_N), np.unique(labels_N, return_inverse=True)
        # A class that the other half lacks has the probability of one row among all.
        likelihood_NC = np.full((len(labels_N), len(classes)), 1 / len(labels_N))
        for held_out, fitted in (halves, halves[::-1]):
            if len(set(labels_N[fitted])) < 2:
                return cls(places_N, counts_N, None)
            probe = _regression(features_ND[fitted], labels_N[fitted], counts_N[fitted], inverse_strength)
            known = np.searchsorted(classes, probe.classes_)
            likelihood_NC[np.ix_(held_out, known)] = probe.predict_proba(features_ND[held_out])
        # A probability of 0 comes from rounding, or from rows of weight 0.
        return cls(places_N, counts_N, np.log(np.maximum(likelihood_NC, np.finfo(float).tiny)))

    @property
    def loss(self) -> float:
        """The log loss at the best temperature."""
        return 0.0 if self.log_NC is None else least_log_loss(self.places_N, self.log_NC, self.counts_N)

    @property
    def explained(self) -> float:
        """See `FittedHead.explained`."""
        if self.log_NC is None:
            return 0.0
        shares_C = np.bincount(self.places_N, self.counts_N) / self.counts_N.sum()
        entropy = -np.average(np.log(np.maximum(shares_C, np.finfo(float).tiny))[self.places_N], weights=self.counts_N)
        rows = np.arange(len(self.places_N))
        return float(1 + np.average(self.log_NC[rows, self.places_N], weights=self.counts_N) / entropy)
