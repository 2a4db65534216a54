"""Paired comparisons of two models on the same rows.

Shapes: N rows, S seeds.
"""

from typing import Any, Literal

import numpy as np
from scipy.special import stdtrit

from hf_finetune.errors import InputError
from hf_finetune.evaluation.intervals import Interval

Verdict = Literal["better", "no worse", "worse", "undecided"]


def paired_difference(correct_a: Any, correct_b: Any, *, confidence: float = 0.95) -> Interval:
    """Return accuracy of a minus accuracy of b on the same rows, over rows and seeds, with its confidence interval.

    Rows and seeds are random effects: the variance is that of a two-way layout without replication, the degrees of
    freedom are Satterthwaite's (1946, "An approximate distribution of estimates of variance components"). One row that
    only a has correct and one that only b has correct are added, as by Bonett and Price (2012, "Adjusted Wald
    confidence interval for a difference of binomial proportions based on paired data"): without them, models that
    agree on 20 rows would be equal with certainty. With one seed, the interval is over rows alone. With two seeds, 95%
    intervals cover about 90%.

    Args:
        correct_a: whether a is correct, (N,) or one line for each seed (S, N); 0 and 1 or booleans.
        correct_b: the same for b; line s is paired with line s of a.
        confidence: nominal coverage of the interval.

    Returns:
        value, low and high as shares (0.01 is a percentage point), n = N.

    Examples:
        >>> difference = paired_difference([1] * 90 + [0] * 10, [1] * 70 + [0] * 30)
        >>> round(difference.value, 2), round(difference.low, 2), round(difference.high, 2)
        (0.2, 0.11, 0.28)

    Raises:
        InputError: different shapes, no rows, or values other than 0 and 1.
    """
    a, b = np.atleast_2d(np.asarray(correct_a)), np.atleast_2d(np.asarray(correct_b))
    if a.shape != b.shape or a.ndim != 2 or a.size == 0:
        raise InputError(f"paired difference: expected two arrays of shape (seeds, rows), got {a.shape} and {b.shape}")
    if not (np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()):
        raise InputError("paired difference: expected 0 (wrong) or 1 (correct) for each row")
    difference = a.astype(np.float64) - b
    padded = np.column_stack([difference, np.ones(len(a)), -np.ones(len(a))])
    return _around(float(difference.mean()), *_mean_and_half(padded, confidence), rows=a.shape[1])


def paired_scores(scores_a: Any, scores_b: Any, *, confidence: float = 0.95) -> Interval:
    """Return the mean score of a minus that of b on the same rows, over rows and seeds, with its confidence interval.

    The interval is that of `paired_difference`, without its added rows.

    Args:
        scores_a: score of each row by a, (N,) or one line for each seed (S, N).
        scores_b: the same for b; line s is paired with line s of a.

    Raises:
        InputError: different shapes, or no rows.
    """
    a, b = (np.atleast_2d(np.asarray(scores, dtype=np.float64)) for scores in (scores_a, scores_b))
    if a.shape != b.shape or a.ndim != 2 or a.size == 0:
        raise InputError(f"paired scores: expected two arrays of shape (seeds, rows), got {a.shape} and {b.shape}")
    mean, half = _mean_and_half(a - b, confidence)
    return Interval(mean, mean - float(half), mean + float(half), a.shape[1])


def paired_macro_f1(labels: Any, predicted_a: Any, predicted_b: Any, *, confidence: float = 0.95) -> Interval:
    """Return macro F1 of a minus macro F1 of b on the same rows, over rows and seeds, with its confidence interval.

    The interval is that of `paired_difference`, over the linear contribution of each row to the score (delta method).
    Row i contributes to the F1 of class c, 2 TP / (labels + predictions), the derivative (2 [both are c] - F1 ([its
    label is c] + [its prediction is c])) N / (labels + predictions). Valid from a few hundred rows on; for identical
    predictions the interval has no width.

    Args:
        labels: true class ids, (N,).
        predicted_a: class ids predicted by a, (N,) or one line for each seed (S, N).
        predicted_b: the same for b; line s is paired with line s of a.
        confidence: nominal coverage of the interval.

    Returns:
        value, low and high as shares (0.01 is a percentage point), n = N.

    Raises:
        InputError: different shapes, or no rows.
    """
    labels, a, b = np.asarray(labels), np.atleast_2d(np.asarray(predicted_a)), np.atleast_2d(np.asarray(predicted_b))
    if a.shape != b.shape or a.ndim != 2 or labels.shape != a.shape[1:] or a.size == 0:
        raise InputError(
            "paired macro F1: expected labels of shape (rows,) and predictions of shape (seeds, rows), "
            f"got {labels.shape}, {a.shape} and {b.shape}"
        )
    cells = np.stack(
        [_macro_f1_by_row(labels, one) - _macro_f1_by_row(labels, other) for one, other in zip(a, b, strict=True)]
    )
    return _around(float(cells.mean()), *_mean_and_half(cells, confidence), rows=a.shape[1])


def _macro_f1_by_row(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return the contribution of each row to macro F1, shape (N,); the mean is macro F1 over the classes that occur."""
    classes = np.union1d(labels, predicted)
    is_label, is_prediction = (ids[:, None] == classes for ids in (labels, predicted))
    both, total_C = is_label & is_prediction, is_label.sum(axis=0) + is_prediction.sum(axis=0)
    f1_C = 2 * both.sum(axis=0) / total_C
    contribution = (2 * both - f1_C * (is_label.astype(float) + is_prediction)) * len(labels) / total_C
    return (f1_C + contribution).mean(axis=1)


def _around(value: float, mean: float, half: float, *, rows: int) -> Interval:
    return Interval(value, float(max(min(mean - half, value), -1)), float(min(max(mean + half, value), 1)), rows)


def _mean_and_half(cells: np.ndarray, confidence: float) -> tuple[float, float]:
    """Return the mean over seeds and rows (S, N), and half the width of its interval; see `paired_difference`."""
    seeds, rows = cells.shape
    mean = cells.mean()
    if rows == 1:
        # One row has no variance.
        return float(mean), np.inf
    row_effects, seed_effects = cells.mean(axis=0) - mean, cells.mean(axis=1) - mean
    # Mean squares divided by the number of cells: components of the mean's variance.
    row_variance = seeds * (row_effects**2).sum() / (rows - 1) / cells.size
    variance, freedom = row_variance, rows - 1.0
    if seeds > 1:
        residuals = cells - mean - row_effects - seed_effects[:, None]
        seed_variance = rows * (seed_effects**2).sum() / (seeds - 1) / cells.size
        interaction = (residuals**2).sum() / ((rows - 1) * (seeds - 1)) / cells.size
        if seed_variance > interaction:
            variance = row_variance + seed_variance - interaction
            squares = (
                row_variance**2 / (rows - 1)
                + seed_variance**2 / (seeds - 1)
                + interaction**2 / ((rows - 1) * (seeds - 1))
            )
            freedom = variance**2 / squares
    return float(mean), float(stdtrit(freedom, 0.5 + confidence / 2) * np.sqrt(variance))


def corrected(difference: Interval, comparisons: int) -> Interval:
    """Widen a 95% interval of a paired difference, so that the intervals of several comparisons hold together.

    The level is divided by their number (Bonferroni). The intervals here are those of Student's t.

    Examples:
        >>> wide = corrected(Interval(0.1, 0.0, 0.2, 1_000), 5)
        >>> round(wide.low, 3), round(wide.high, 3)
        (-0.032, 0.232)
    """
    if difference.n < 2:
        return difference
    freedom = difference.n - 1.0
    factor = float(stdtrit(freedom, 1 - 0.025 / comparisons) / stdtrit(freedom, 0.975))
    value = difference.value
    low, high = value - factor * (value - difference.low), value + factor * (difference.high - value)
    return Interval(value, low, high, difference.n)


def mcnemar(correct_a: Any, correct_b: Any) -> float:
    """Return the p-value of McNemar's exact test that two models are right on equally many rows.

    Args:
        correct_a, correct_b: whether each is correct, shape (N,).

    Examples:
        >>> mcnemar([1, 1, 1, 1, 0], [0, 0, 0, 1, 1])  # 3 rows against 1
        0.625
    """
    from scipy.stats import binomtest

    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def association(labels: Any, log_scores: Any, *, draws: int = 1_999, enough: int = 100, seed: int = 0) -> float:
    """Return the p-value of a permutation test that scores say nothing of the labels.

    The statistic is the sum of the scores of the true classes, which is compared with that of shuffled labels (Ojala
    and Garriga 2010, "Permutation tests for studying classifier performance", with fixed predictions). Scores that are
    the same for every row, whatever frequencies they name, have a p-value of 1: unlike the accuracy, the test knows no
    majority to beat, and it detects a model that recognizes a rare class. Shuffling ends where `enough` shuffled labels
    fit as well (Besag and Clifford 1991, "Sequential Monte Carlo p-values").

    Args:
        labels: class ids, shape (N,).
        log_scores: log-probabilities, shape (N, C).
        draws: most shuffles; the smallest p-value is 1 / (draws + 1).

    Examples:
        >>> rare = [1] * 4 + [0] * 96
        >>> found = np.log([[0.1, 0.9]] * 3 + [[0.9, 0.1]] * 97)
        >>> association(rare, found)
        0.0005
    """
    labels, log_NC = np.asarray(labels), np.asarray(log_scores)
    generator, rows = np.random.default_rng(seed), np.arange(len(labels))
    observed = log_NC[rows, labels].sum()
    # Sums in another order differ in the last bits.
    near, as_good = observed - 1e-9 * abs(observed), 0
    for drawn in range(1, draws + 1):
        as_good += bool(log_NC[rows, generator.permutation(labels)].sum() >= near)
        if as_good == enough:
            return enough / drawn
    return (1 + as_good) / (1 + draws)


def verdict(difference: Interval, *, margin: float = 0.01) -> Verdict:
    """Judge the first model of a paired difference.

    Args:
        difference: from `paired_difference`, or of any score where greater is better.
        margin: largest loss that is still acceptable; 0.01 is one percentage point.

    Returns:
        `better`: the lower bound is above 0; `no worse`: it is above -margin; `worse`: it is not, and the upper bound
        is below 0; else `undecided`.

    Examples:
        >>> verdict(paired_difference([1] * 90 + [0] * 10, [1] * 70 + [0] * 30))
        'better'
    """
    if difference.low > 0:
        return "better"
    if difference.low > -margin:
        return "no worse"
    return "worse" if difference.high < 0 else "undecided"
