"""Reliability bins and temperature scaling."""

from dataclasses import asdict

import numpy as np
import pytest

from hf_finetune.errors import InputError
from hf_finetune.evaluation import metrics
from hf_finetune.evaluation.calibration import TEMPERATURES, least_log_loss, reliability, temperature
from hf_finetune.evaluation.metrics import row_log_losses, softmax


def test_bins_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.88, 0.12], [0.3, 0.7], [0.5, 0.5]])
    bins = reliability([0, 1, 1, 1], probabilities, bins=10)
    assert [(b.low, b.high) for b in bins] == [(0.4, 0.5), (0.6, 0.7), (0.8, 0.9)]
    assert [(b.count, b.accuracy) for b in bins] == [(1, 0), (1, 1), (2, 0.5)]
    assert [b.confidence for b in bins] == pytest.approx([0.5, 0.7, 0.89])
    assert asdict(bins[0]) == {"low": 0.4, "high": 0.5, "confidence": 0.5, "accuracy": 0.0, "count": 1}


def test_bins_sum_to_the_calibration_error() -> None:
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(4, size=500), rng.normal(size=(500, 4)) * 2
    probabilities = metrics.softmax(logits)
    gap = sum(b.count * abs(b.accuracy - b.confidence) for b in reliability(labels, probabilities)) / 500
    assert gap == pytest.approx(metrics.classification_metrics(labels, probabilities)["ece"], abs=1e-12)


def drawn_from(logits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw labels with the probabilities of the logits."""
    return (metrics.softmax(logits).cumsum(axis=1) < rng.random((len(logits), 1))).sum(axis=1)


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_finds_the_factor_by_which_logits_are_too_sure(factor: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 5)) * 2
    assert temperature(drawn_from(logits, rng), logits * factor) == pytest.approx(factor, rel=0.03)


def test_no_other_temperature_has_a_lower_loss() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(300, 3)) * 3
    labels = np.where(rng.random(300) < 0.5, logits.argmax(axis=1), rng.integers(3, size=300))

    def loss(t: float) -> float:
        return metrics.classification_metrics(labels, metrics.softmax(logits / t))["log_loss"]

    best = temperature(labels, logits)
    assert loss(best) <= min(loss(best * 0.99), loss(best * 1.01), loss(1.0))


def test_rows_without_a_mistake_teach_nothing() -> None:
    assert temperature([0, 1], np.array([[0.9, -0.9], [-0.9, 0.9]])) == 1.0


def test_large_logits_do_not_overflow() -> None:
    logits = np.array([[1e4, -1e4], [1e4, -1e4], [-1e4, 1e4]])
    assert temperature([0, 1, 1], logits) == pytest.approx(TEMPERATURES[1], rel=1e-3)


def test_refused() -> None:
    with pytest.raises(InputError, match="finite"):
        temperature([0], np.array([[np.nan, 1.0]]))
    with pytest.raises(InputError, match="at least one row"):
        reliability([], np.zeros((0, 2)))


def test_the_least_log_loss_never_falls_by_a_mistake() -> None:
    """Also for the first wrong row, where `temperature` is 1 before; if all rows are correct, more confident logits
    have the lower loss."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(40, 3)) * 0.3
    labels = logits.argmax(axis=1)
    losses = [least_log_loss(labels, logits)]
    for row in rng.permutation(40)[:12]:
        labels[row] = logits[row].argsort()[0]
        losses.append(least_log_loss(labels, logits))
    assert losses == sorted(losses) and losses[0] < losses[1]
    right = logits.argmax(axis=1)
    assert least_log_loss(right, 2 * logits) < least_log_loss(right, logits) < 0.2
    # A weight of two is a row that stands there twice.
    twice = np.concatenate([np.arange(len(labels)), [0]])
    counts = np.bincount(twice).astype(float)
    assert least_log_loss(labels, logits, counts) == pytest.approx(least_log_loss(labels[twice], logits[twice]))
    best = temperature(labels, logits)
    assert least_log_loss(labels, logits) == pytest.approx(row_log_losses(labels, softmax(logits / best)).mean())
