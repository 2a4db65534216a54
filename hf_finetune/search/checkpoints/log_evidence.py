"""LogME: how well a Bayesian linear model of frozen features explains the labels, without a fit by gradients.

Legend: N rows, F features, T targets, R singular values.
"""

import numpy as np

MOST_STEPS, TOLERANCE = 100, 1e-6
LEAST = 1e-12
"""Least sum of squares that is divided by."""
PRECISIONS = (1e-9, 1e9)
"""Bounds of both precisions, where a target is explained in full or not at all."""


def log_evidence(features_NF: np.ndarray, targets_NT: np.ndarray) -> float:
    """Return the greatest log evidence of each row, mean over the targets (LogME, arXiv:2102.11005).

    A target is normal around a linear function of the features with precision beta; the weights are normal around zero
    with precision alpha. Both precisions are those of the greatest evidence, by MacKay's fixed point, which costs one
    singular value decomposition for all targets.

    Args:
        features_NF: any features, shape (N, F).
        targets_NT: numbers, or a 0 or 1 for each class or tag, shape (N, T).
    """
    left_NR, singular_R, _ = np.linalg.svd(features_NF.astype(np.float64), full_matrices=False)
    targets_NT = targets_NT.astype(np.float64)
    projected_RT = left_NR.T @ targets_NT
    # What no weights can explain.
    outside_T = np.maximum((targets_NT**2).sum(0) - (projected_RT**2).sum(0), 0.0)
    parts = [
        _greatest(singular_R**2, projected_R, outside, rows=len(features_NF), features=features_NF.shape[1])
        for projected_R, outside in zip(projected_RT.T, outside_T, strict=True)
    ]
    return float(np.mean(parts)) / len(features_NF)


def _greatest(squared_R: np.ndarray, projected_R: np.ndarray, outside: float, *, rows: int, features: int) -> float:
    """Return the greatest log evidence of one target.

    Args:
        squared_R: squared singular values of the features.
        projected_R: the target in the space of the left singular vectors.
        outside: squared length of the target outside this space.
    """
    alpha, beta, ratio = 1.0, 1.0, 0.0
    for _ in range(MOST_STEPS):
        shrunk_R = beta * squared_R / (alpha + beta * squared_R)
        effective = shrunk_R.sum()
        weights = max(float(((shrunk_R * projected_R) ** 2 / np.maximum(squared_R, LEAST)).sum()), LEAST)
        residual = max(float((((1 - shrunk_R) * projected_R) ** 2).sum() + outside), LEAST)
        alpha, beta = np.clip((effective / weights, (rows - effective) / residual), *PRECISIONS)
        if abs(alpha / beta - ratio) <= TOLERANCE * ratio:
            break
        ratio = alpha / beta
    return evidence_at(alpha, beta, squared_R, projected_R, outside, rows=rows, features=features)


def evidence_at(
    alpha: float,
    beta: float,
    squared_R: np.ndarray,
    projected_R: np.ndarray,
    outside: float,
    *,
    rows: int,
    features: int,
) -> float:
    """Return the log evidence of a target at these precisions; other arguments as in `_greatest`."""
    shrunk_R = beta * squared_R / (alpha + beta * squared_R)
    weights = float(((shrunk_R * projected_R) ** 2 / np.maximum(squared_R, LEAST)).sum())
    residual = float((((1 - shrunk_R) * projected_R) ** 2).sum() + outside)
    log_determinant = float(np.log(alpha + beta * squared_R).sum()) + (features - len(squared_R)) * np.log(alpha)
    quadratic = beta * residual + alpha * weights + log_determinant
    return float(features * np.log(alpha) + rows * np.log(beta / (2 * np.pi)) - quadratic) / 2
