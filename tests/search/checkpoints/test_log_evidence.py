"""LogME against a direct evaluation of the evidence."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from hf_finetune.search.checkpoints.log_evidence import evidence_at, log_evidence


def direct(features_NF: np.ndarray, target_N: np.ndarray, alpha: float, beta: float) -> float:
    """The density of the target, whose weights are integrated out."""
    covariance = np.eye(len(target_N)) / beta + features_NF @ features_NF.T / alpha
    return float(multivariate_normal.logpdf(target_N, cov=covariance))


@pytest.mark.parametrize("shape", [(12, 3), (5, 8)])
def test_the_greatest_of_the_direct_evidence(shape: tuple[int, int]) -> None:
    """With more rows than features, and with fewer, where only the precisions by hand are compared."""
    rng = np.random.default_rng(0)
    features_NF = rng.normal(size=shape)
    target_N = features_NF[:, 0] - 0.5 * features_NF[:, 1] + 0.3 * rng.normal(size=shape[0])
    left, singular, _ = np.linalg.svd(features_NF, full_matrices=False)
    projected = left.T @ target_N
    outside = float((target_N**2).sum() - (projected**2).sum())
    rows, features = shape
    for alpha, beta in ((1.0, 1.0), (0.3, 7.0)):
        ours = evidence_at(alpha, beta, singular**2, projected, outside, rows=rows, features=features)
        assert np.isclose(ours, direct(features_NF, target_N, alpha, beta))
    if rows > features:
        best = minimize(lambda log: -direct(features_NF, target_N, *np.exp(log)), [0.0, 0.0], method="Nelder-Mead")
        assert np.isclose(log_evidence(features_NF, target_N[:, None]), -best.fun / rows, atol=1e-4)


def test_features_that_explain_more_have_more_evidence() -> None:
    rng = np.random.default_rng(1)
    classes_N = rng.integers(0, 3, 90)
    targets_NT = np.eye(3)[classes_N]
    noise_NF = rng.normal(size=(90, 5))
    telling_NF = noise_NF + 2 * np.eye(5)[classes_N]
    assert log_evidence(telling_NF, targets_NT) > log_evidence(noise_NF, targets_NT)
    # A target without rows, features that are constant, and a perfect fit are no errors.
    for features_NF in (np.zeros((90, 2)), targets_NT):
        assert np.isfinite(log_evidence(features_NF, np.column_stack([targets_NT, np.zeros(90)])))
