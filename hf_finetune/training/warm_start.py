"""Linear probe before fine-tuning: the head starts where logistic regression on frozen features ends.

A head that starts at random sends noise into the pretrained layers for the first steps and, with many classes, needs a
learning rate of its own; one that starts fitted does neither (Kumar et al., arXiv:2202.10054).

Legend: N rows, D features, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from hf_finetune.evaluation.inference import Collate, predict_logits

# Features of more rows than this change the fitted head little and cost a forward pass each.
MOST_ROWS = 5_000
# A feature counts as varying by no less than this share of the features' size (root mean square). Where they hardly vary
# (.008 of their size after a network lost its top layers; .5 in a whole one), weights that made up for it would throw the
# logits far off as soon as training moves the features at all.
LEAST_DEVIATION = 0.05


def head_features(
    model: nn.Module,
    layers: Sequence[nn.Linear],
    rows: Dataset,
    collate: Collate,
    *,
    batch_size: int = 64,
    autocast: torch.dtype | None = None,
    progress: str | None = None,
) -> list[np.ndarray]:
    """Inputs of the model's classification `layers` for every row, in row order. Of each layer shape (N, D), float32."""
    seen: dict[nn.Module, list[torch.Tensor]] = {layer: [] for layer in layers}

    def note(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
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
    inverse_strength: float = 0.1,
    weights_N: np.ndarray | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Multinomial logistic regression on standardised features, the standardisation folded into its weights.

    Args:
        features_ND: shape (N, D).
        labels_N: shape (N,), class indices; every class of `num_labels` should be there, an absent one gets zeros.
        inverse_strength: scikit-learn's C, the inverse of the L2 penalty.
        weights_N: shape (N,), what each row counts. None: all the same.

    Returns:
        Weight (C, D) and bias (C,), float32, such that `features @ weight.T + bias` are the logits.
    """
    # Half a second that a run which finds its head stored need not wait for.
    from sklearn.linear_model import LogisticRegression

    mean, size = features_ND.mean(0), float(np.sqrt(np.square(features_ND, dtype=np.float64).mean()))
    scale = np.maximum(features_ND.std(0), LEAST_DEVIATION * size or 1.0)
    probe = LogisticRegression(C=inverse_strength, max_iter=200, tol=1e-3)
    probe.fit((features_ND - mean) / scale, labels_N, sample_weight=weights_N)
    coefficients, intercept = probe.coef_, probe.intercept_
    if len(probe.classes_) == 2:
        # scikit-learn keeps one row for two classes: the logit of the second, shared out evenly.
        coefficients, intercept = np.stack([-coefficients[0], coefficients[0]]) / 2, np.array([-1, 1]) * intercept / 2
    weight = np.zeros((num_labels, features_ND.shape[1]))
    bias = np.zeros(num_labels)
    weight[probe.classes_] = coefficients / scale
    bias[probe.classes_] = intercept - (coefficients / scale) @ mean
    return torch.tensor(weight, dtype=torch.float32), torch.tensor(bias, dtype=torch.float32)
