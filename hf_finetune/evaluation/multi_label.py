"""Metrics of multi-label classification, with the values of scikit-learn, and their confidence intervals.

Legend: N rows, C tags, R resamples.
"""

from typing import Any

import numpy as np
from scipy import sparse

from hf_finetune.errors import InputError
from hf_finetune.evaluation.intervals import (
    FEWEST_RESAMPLES,
    Interval,
    check_resamples,
    percentile_bounds,
    resampled_sums,
)
from hf_finetune.evaluation.metrics import EPSILON, Counts, Metric, f1

RANKING_WORK = 1e8
"""Rows times tags times resamples of the interval of the mean average precision: a few seconds."""

METRICS = {
    metric.name: metric
    for metric in (
        Metric("micro_f1", "Micro F1", hub_average="micro"),
        Metric("macro_f1", "Macro F1", hub_average="macro"),
        Metric("sample_f1", "Sample F1"),
        Metric("subset_accuracy", "Subset accuracy"),
        Metric("hamming_loss", "Hamming loss", greater_is_better=False),
        Metric("mean_average_precision", "Mean average precision"),
        Metric("lrap", "Label ranking average precision"),
        Metric("log_loss", "Log loss (nats)", greater_is_better=False),
    )
}
"""All metrics by name, in the order of result.json."""


def tag_counts(labels_NC: np.ndarray, predicted_NC: np.ndarray) -> Counts:
    """Return the counts of each tag, shape (C,)."""
    hot, predicted = labels_NC.astype(bool), predicted_NC.astype(bool)
    return Counts((hot & predicted).sum(axis=0), hot.sum(axis=0), predicted.sum(axis=0))


def multi_label_metrics(labels_NC: Any, scores_NC: Any, thresholds_C: np.ndarray) -> dict[str, float]:
    """Return every metric of `METRICS` that is defined.

    Args:
        labels_NC: a 0 or 1 for each tag.
        scores_NC: probability of each tag.
        thresholds_C: a tag is predicted from this probability on.

    Raises:
        InputError: no rows, other shapes, or scores that are not finite.
    """
    labels_NC, scores_NC = _checked(labels_NC, scores_NC)
    return _values(labels_NC, scores_NC, _row_statistics(labels_NC, scores_NC, scores_NC >= thresholds_C))


def _values(labels_NC: np.ndarray, scores_NC: np.ndarray, statistics: np.ndarray) -> dict[str, float]:
    values = {name: float(value[0]) for name, value in _of_sums(statistics.sum(axis=1)[:, None], labels_NC).items()}
    precisions_C = average_precisions(labels_NC, scores_NC)
    if not np.isnan(precisions_C).all():
        values["mean_average_precision"] = float(np.nanmean(precisions_C))
    return {name: values[name] for name in METRICS if name in values}


def multi_label_intervals(
    labels_NC: Any, scores_NC: Any, thresholds_C: np.ndarray, *, resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Return `multi_label_metrics` with 95% intervals: bias-corrected percentiles of the bootstrap over rows.

    Raises:
        InputError: see `multi_label_metrics`; or fewer than 100 resamples.
    """
    check_resamples(resamples)
    labels_NC, scores_NC = _checked(labels_NC, scores_NC)
    statistics = _row_statistics(labels_NC, scores_NC, scores_NC >= thresholds_C)
    values = _values(labels_NC, scores_NC, statistics)
    sums_of_resamples = resampled_sums(sparse.csr_array(statistics), resamples, seed)
    parts = [_of_sums(sums, labels_NC) for sums in sums_of_resamples]
    resampled = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if "mean_average_precision" in values:
        resampled["mean_average_precision"] = _resampled_precision(labels_NC, scores_NC, resamples, seed)
    used = int(_used(tag_counts(labels_NC, scores_NC >= thresholds_C)).sum())
    classes = {"macro_f1": (used, labels_NC.shape[1])} if used < labels_NC.shape[1] else {}
    return {
        name: Interval(value, *_around(value, resampled[name]), len(labels_NC), classes.get(name))
        for name, value in values.items()
    }


def _around(value: float, resampled: np.ndarray) -> tuple[float, float]:
    low, high = percentile_bounds(value, resampled[~np.isnan(resampled)])
    return min(low, value), max(high, value)


def micro_f1_by_row(labels_NC: np.ndarray, predicted_NC: np.ndarray) -> np.ndarray:
    """Return the linear contribution of each row to micro F1, shape (N,), whose mean is micro F1 (delta method).

    F1 = 2 J / T with the J tags that are both and the T true and predicted tags of all rows: row i contributes
    F1 + (2 J_i - F1 T_i) N / T.
    """
    both_N = (labels_NC.astype(bool) & predicted_NC.astype(bool)).sum(axis=1)
    total_N = labels_NC.sum(axis=1) + predicted_NC.sum(axis=1)
    total = max(1, int(total_N.sum()))
    value = 2 * both_N.sum() / total
    return value + (2 * both_N - value * total_N) * len(labels_NC) / total


def average_precisions(labels_NC: np.ndarray, scores_NC: np.ndarray) -> np.ndarray:
    """Return the average precision of each tag, shape (C,); NaN for a tag without rows."""
    weights_1N = np.ones((1, len(labels_NC)))
    return np.array([_average_precision(y, s, weights_1N)[0] for y, s in zip(labels_NC.T, scores_NC.T, strict=True)])


def average_precision_by_row(labels_NC: np.ndarray, scores_NC: np.ndarray) -> np.ndarray:
    """Return the linear contribution of each row to the mean average precision, shape (N,), whose mean it is.

    The average precision of a tag is the mean, over its rows i, of the precision p_i of the n_i rows that are ranked as
    high or higher. A row j adds its own p_j if it has the tag, and changes p_i of each row at or below its rank by
    (y_j - p_i) / n_i (delta method). At least one row has a tag.
    """
    rows, total_N, tags = len(labels_NC), np.zeros(len(labels_NC)), np.flatnonzero(labels_NC.any(axis=0))
    for tag in tags:
        order = np.argsort(-scores_NC[:, tag], kind="stable")
        y, descending = labels_NC[order, tag].astype(np.float64), scores_NC[order, tag]
        # Rows with equal scores have one rank: from its first row on, up to its last.
        starts = np.flatnonzero(np.append(True, np.diff(descending) != 0))
        sizes = np.diff(np.append(starts, rows))
        first, n = np.repeat(starts, sizes), np.repeat(starts + sizes, sizes)
        p, positives = y.cumsum()[n - 1] / n, y.sum()
        value = (y * p).sum() / positives
        below, precision_below = ((y * each / n)[::-1].cumsum()[::-1][first] for each in (np.ones(rows), p))
        total_N[order] += value + rows / positives * (y * (p - value + below) - precision_below)
    return total_N / len(tags)


def _average_precision(labels_N: np.ndarray, scores_N: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """Return the average precision of one tag with weighted rows, shape (R,): the sum of precision times the step in
    recall over the distinct scores, from high to low."""
    order = np.argsort(-scores_N, kind="stable")
    # Rows with equal scores are one step.
    ends = np.flatnonzero(np.append(np.diff(scores_N[order]) != 0, True))
    total_RN = np.cumsum(weights_RN[:, order], axis=1)[:, ends]
    positive_RN = np.cumsum(weights_RN[:, order] * labels_N[order], axis=1)[:, ends]
    steps_RN = np.diff(positive_RN, axis=1, prepend=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision_RN = np.where(total_RN > 0, positive_RN / total_RN, 0.0)
        return (steps_RN * precision_RN).sum(axis=1) / positive_RN[:, -1]


def _resampled_precision(labels_NC: np.ndarray, scores_NC: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return the mean average precision of resampled rows, shape (R,), with as many as `RANKING_WORK` allows."""
    rows, tags = labels_NC.shape
    count = int(np.clip(RANKING_WORK // (rows * tags), FEWEST_RESAMPLES, resamples))
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, count, FEWEST_RESAMPLES):
        size = min(FEWEST_RESAMPLES, count - start)
        weights_RN = np.stack([np.bincount(rng.integers(rows, size=rows), minlength=rows) for _ in range(size)])
        of_tags = [
            _average_precision(y, s, weights_RN) for y, s in zip(labels_NC.T, scores_NC.T, strict=True) if y.any()
        ]
        # A resample may lack a tag, or all of them.
        defined = ~np.isnan(of_tags)
        sums_R = np.where(defined, of_tags, 0).sum(axis=0)
        means.append(np.where(defined.any(axis=0), sums_R / np.maximum(defined.sum(axis=0), 1), np.nan))
    return np.concatenate(means)


def _row_statistics(labels_NC: np.ndarray, scores_NC: np.ndarray, predicted_NC: np.ndarray) -> np.ndarray:
    """Return the summands of each row, shape (3 C + 5, N): both, true and predicted by tag; then `MEANS`."""
    hot, predicted = labels_NC.astype(bool), predicted_NC.astype(bool)
    both = hot & predicted
    total_N = hot.sum(axis=1) + predicted.sum(axis=1)
    # A row without a true or predicted tag is right.
    f1_N = np.where(total_N > 0, 2 * both.sum(axis=1) / np.maximum(total_N, 1), 1.0)
    likelihood_NC = np.where(hot, scores_NC, 1 - scores_NC)
    means = [
        f1_N,
        (hot == predicted).all(axis=1),
        (hot != predicted).mean(axis=1),
        _ranking_precision(hot, scores_NC),
        -np.log(np.maximum(likelihood_NC, EPSILON)).mean(axis=1),
    ]
    return np.concatenate([both.T, hot.T, predicted.T, np.stack(means)]).astype(np.float64)


MEANS = ("sample_f1", "subset_accuracy", "hamming_loss", "lrap", "log_loss")


def _of_sums(sums: np.ndarray, labels_NC: np.ndarray) -> dict[str, np.ndarray]:
    """Return metrics (R,) from sums of row statistics (3 C + 5, R), all over N rows."""
    rows, tags = labels_NC.shape
    correct, support, predicted, means = np.split(sums, [tags, 2 * tags, 3 * tags])
    total = support.sum(axis=0) + predicted.sum(axis=0)
    micro = np.where(total > 0, 2 * correct.sum(axis=0) / np.maximum(total, 1), 0.0)
    counts = Counts(correct, support, predicted)
    used = _used(counts).any(axis=0)
    macro = np.where(used, f1(Counts(correct, support, np.maximum(predicted, ~used)), "macro"), 0.0)
    return {"micro_f1": micro, "macro_f1": macro, **dict(zip(MEANS, means / rows, strict=True))}


def _used(counts: Counts) -> np.ndarray:
    """Return which tags have rows or are predicted, same shape."""
    return counts.support + counts.predicted > 0


def _ranking_precision(hot_NC: np.ndarray, scores_NC: np.ndarray) -> np.ndarray:
    """Return the label ranking average precision of each row, shape (N,); 1 for a row with no tag, or with all."""
    values = np.ones(len(hot_NC))
    for row, (hot_C, scores_C) in enumerate(zip(hot_NC, scores_NC, strict=True)):
        if hot_C.any() and not hot_C.all():
            ascending, true = np.sort(-scores_C), np.sort(-scores_C[hot_C])
            # Ties count as ranked above, as in scikit-learn.
            rank = np.searchsorted(ascending, true, side="right")
            above = np.searchsorted(true, true, side="right")
            values[row] = (above / rank).mean()
    return values


def _checked(labels_NC: Any, scores_NC: Any) -> tuple[np.ndarray, np.ndarray]:
    labels_NC, scores_NC = np.asarray(labels_NC), np.asarray(scores_NC, dtype=np.float64)
    if labels_NC.ndim != 2 or labels_NC.shape != scores_NC.shape or not labels_NC.size:
        raise InputError(f"scores: expected one for each of {labels_NC.shape} labels, got {scores_NC.shape}")
    if not np.isin(labels_NC, (0, 1)).all():
        raise InputError("labels: expected a 0 or 1 for each tag")
    if not np.isfinite(scores_NC).all():
        raise InputError("scores: expected finite numbers")
    return labels_NC, scores_NC


def best_thresholds(labels_NC: np.ndarray, scores_NC: np.ndarray) -> np.ndarray:
    """Return for each tag the threshold with the best F1 on these rows, shape (C,), float64.

    A threshold lies in the middle between two neighboring scores. Few positive rows would choose at random: the
    threshold of a tag with `PRIOR_ROWS` of them lies, on the logit scale, half way to the best one for all tags.
    """
    common = _common_threshold(labels_NC, scores_NC)
    return np.array([_best_threshold(y, s, common, PRIOR_ROWS) for y, s in zip(labels_NC.T, scores_NC.T, strict=True)])


PRIOR_ROWS = 20
"""Positive rows of a tag from which its own threshold counts as much as the common one."""


def _common_threshold(labels_NC: np.ndarray, scores_NC: np.ndarray) -> float:
    return _best_threshold(labels_NC.ravel(), scores_NC.ravel(), 0.5, 0)


def _best_threshold(labels_N: np.ndarray, scores_N: np.ndarray, common: float, prior: int) -> float:
    """Return the threshold with the best F1, moved towards the common one on the logit scale where rows are few."""
    positives = int(labels_N.sum())
    if positives == 0:
        return common
    order = np.argsort(-scores_N, kind="stable")
    scores = scores_N[order]
    right = np.cumsum(labels_N[order])
    f1_N = 2 * right / (np.arange(1, len(scores) + 1) + positives)
    ends = np.append(np.diff(scores) != 0, True)
    best = int(np.where(ends, f1_N, -1).argmax())
    below = scores[best + 1] if best + 1 < len(scores) else 0.0
    own = (scores[best] + below) / 2
    share = positives / (positives + prior)
    logit = np.log(np.clip([own, common], EPSILON, 1 - 1e-9) / (1 - np.clip([own, common], EPSILON, 1 - 1e-9)))
    return float(1 / (1 + np.exp(-(share * logit[0] + (1 - share) * logit[1]))))
