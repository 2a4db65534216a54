"""Confidence intervals of metrics.

Shapes: N rows, C classes, K columns of statistics, R resamples.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from scipy import sparse
from scipy.special import betaincinv, expit, logit, ndtr, ndtri

from hf_finetune.errors import InputError
from hf_finetune.evaluation import metrics

CHUNK = 2**21
"""Size of intermediate arrays: 16 MiB of float64."""
FEWEST_RESAMPLES = 100
CLASS_MEANS = tuple(metric for metric in metrics.COUNT_METRICS if metric.interval == "class mean")


@dataclass(frozen=True)
class Interval:
    """A value with its confidence interval."""

    value: float
    low: float
    high: float
    n: int
    """Number of rows."""
    classes: tuple[int, int] | None = None
    """For a mean over fewer classes than there are: the number of its classes, and of all."""

    def to_dict(self) -> dict[str, Any]:
        """Return {"value", "low", "high", "n"}, as in result.json; `classes` only if it is not None."""
        entry = {"value": self.value, "low": self.low, "high": self.high, "n": self.n}
        return entry if self.classes is None else {**entry, "classes": list(self.classes)}


def mean_interval(intervals: Sequence[Interval]) -> Interval:
    """Return the mean of the values and of the bounds, for repeated measurements on the same rows.

    Repeats do not make the rows more, so the interval is about as wide as that of one.
    """
    bounds = zip(*((each.value, each.low, each.high) for each in intervals), strict=True)
    value, low, high = (sum(each) / len(intervals) for each in bounds)
    return Interval(value, low, high, intervals[0].n, intervals[0].classes)


def check_resamples(resamples: int) -> None:
    """Check that percentiles of so many resamples mean something.

    Raises:
        InputError: fewer than 100 resamples.
    """
    if resamples < FEWEST_RESAMPLES:
        raise InputError(f"resamples: expected {FEWEST_RESAMPLES} or more, got {resamples}")


def bootstrap(
    labels: Any, scores: Any, *, resamples: int = 1000, seed: int = 0, confidence: float = 0.95
) -> dict[str, Interval]:
    """Return every metric of `metrics.classification_metrics` with its confidence interval.

    Rows are resampled once for all metrics. The kind of interval is the one with the best coverage for the metric:

    - a `CountMetric` that is a row share: exact (Clopper-Pearson), so that 50 correct rows of 50 do not claim
      certainty.
    - a mean over classes: as the next kind, but no narrower than `_of_class_mean`. Resamples of a class of three rows
      say little about it, and in many of them it is missing: they average over the others, as the metric itself does.
      In simulations, 95% intervals of macro F1 cover 98% so, and 69% by the bootstrap alone, for 60 rows with 2%
      of a third class. With 20 classes of 3 rows they cover 91%, and 63% where a missing class counts as 0, the
      `zero_division` of scikit-learn, which is a bias.
    - any other `CountMetric`, and a `RowMetric`: bias-corrected and accelerated bootstrap (Efron 1987, "Better
      bootstrap confidence intervals"). If all rows are correct, or none, resamples do not vary; the exact interval of
      an accuracy over the effective number of rows replaces it.
    - a `BinMetric`: normal, with the bootstrap standard error; the lower bound includes the bootstrap bias, as a mean
      of absolute values is too high in small samples. Coverage is below nominal for less than about 200 rows.
    - an `InfluenceMetric`: normal on the logit scale; for a value of 0 or 1, exact as above.

    Args:
        labels: true class ids, shape (N,).
        scores: probabilities, shape (N, C).
        resamples: bootstrap resamples R; time is proportional to N x R.
        seed: of the resampling.
        confidence: nominal coverage of the intervals.

    Raises:
        InputError: see `metrics.labels_and_scores`; or fewer than 100 resamples.
    """
    labels, scores = metrics.labels_and_scores(labels, scores)
    check_resamples(resamples)
    (rows, num_labels), z = scores.shape, float(ndtri(0.5 + confidence / 2))
    probabilities, predicted = metrics.as_probabilities(scores), scores.argmax(axis=1)
    statistics = _row_statistics(labels, predicted, probabilities)
    values = _values(statistics, num_labels)
    resampled = _metrics_of(resampled_sums(statistics, resamples, seed), num_labels)
    accelerations = _accelerations(labels, predicted, probabilities, statistics)
    bounds = {name: _bca(values[name], resampled[name], each, z) for name, each in accelerations.items()}
    for bin_metric in metrics.BIN_METRICS:
        bounds[bin_metric.name] = _biased_upwards(values[bin_metric.name], resampled[bin_metric.name], z)
    for metric in metrics.INFLUENCE_METRICS:
        if (score := metric.with_influence(labels, probabilities)) is not None:
            values[metric.name], influence = score
            bounds[metric.name] = _by_influence(values[metric.name], influence, z)
    counts = metrics.class_counts(labels, predicted, num_labels=num_labels)
    for mean in CLASS_MEANS:
        (low, high), (least, most) = bounds[mean.name], _of_class_mean(mean, counts, confidence)
        bounds[mean.name] = min(low, least), max(high, most)
    bounds |= _exact_bounds(labels, predicted, values, confidence)
    averaged = _averaged_classes(counts)
    return {
        name: Interval(
            value, min(float(bounds[name][0]), value), max(float(bounds[name][1]), value), rows, averaged.get(name)
        )
        for name, value in values.items()
    }


def point_values(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Return the metrics that `bootstrap` resamples, to the same bits.

    Args:
        labels: true class ids, shape (N,).
        probabilities: shape (N, C), checked.
    """
    return _values(_row_statistics(labels, probabilities.argmax(axis=1), probabilities), probabilities.shape[1])


def _values(statistics: sparse.csr_array, num_labels: int) -> dict[str, float]:
    sums = statistics.sum(axis=1)[:, None]
    return {name: value.item() for name, value in _metrics_of([sums], num_labels).items()}


def _averaged_classes(counts: metrics.Counts) -> dict[str, tuple[int, int]]:
    """Return the number of averaged classes, and of all, of each mean over classes that leaves some out."""
    averaged = {metric.name: int((metric.class_rows(counts) > 0).sum()) for metric in CLASS_MEANS}
    return {name: (number, len(counts.support)) for name, number in averaged.items() if number < len(counts.support)}


def _of_class_mean(metric: metrics.CountMetric, counts: metrics.Counts, confidence: float) -> tuple[float, float]:
    """Return the bounds of a mean over classes from Wilson's of each class, as if the classes were independent.

    The distances of the bounds from the values add up as variances do: Zou and Donner 2008, "Construction of confidence
    limits about effect measures: a general approach".
    """
    rows = metric.class_rows(counts)
    correct, rows = counts.correct[rows > 0], rows[rows > 0]
    value, low, high = (metric.of_share(share) for share in (correct / rows, *wilson(correct, rows, confidence)))
    below, above = (float(np.sqrt(((value - bound) ** 2).sum())) / len(rows) for bound in (low, high))
    return float(value.mean()) - below, float(value.mean()) + above


def _exact_bounds(
    labels: np.ndarray, predicted: np.ndarray, values: dict[str, float], confidence: float
) -> dict[str, tuple[float, float]]:
    """Return bounds of row shares, and of the metrics whose resamples do not vary."""
    rows, correct = len(labels), int((labels == predicted).sum())
    # The effective number of rows of a mean over classes.
    support = np.unique(labels, return_counts=True)[1]
    effective = float(len(support) ** 2 / (1 / support).sum())
    by_rows, by_classes = exact(correct, rows, confidence), exact(correct / rows * effective, effective, confidence)
    bounds = {}
    for metric in metrics.COUNT_METRICS:
        if metric.interval == "row share" or (metric.interval == "row mean" and correct in (0, rows)):
            bounds[metric.name] = by_rows
        elif metric.interval == "class mean" and correct in (0, rows):
            bounds[metric.name] = by_classes
        elif metric.interval == "correlation" and correct == rows and len(support) > 1:
            # All rows are correct; a guess has correlation 0.
            chance = 1 / len(support)
            bounds[metric.name] = ((by_classes[0] - chance) / (1 - chance), 1.0)
    for score in metrics.INFLUENCE_METRICS:
        if (value := values.get(score.name)) in (0.0, 1.0):
            bounds[score.name] = exact(value * effective, effective, confidence)
    return bounds


def exact(correct: float, rows: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Clopper-Pearson bounds of the share `correct` of `rows`; both may be fractional.

    Clopper and Pearson 1934, "The use of confidence or fiducial limits illustrated in the case of the binomial".
    """
    tail = (1 - confidence) / 2
    low = betaincinv(correct, rows - correct + 1, tail) if correct > 0 else 0.0
    high = betaincinv(correct + 1, rows - correct, 1 - tail) if correct < rows else 1.0
    return float(low), float(high)


def wilson(correct: np.ndarray, rows: np.ndarray, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds of the shares `correct` of `rows`, both (C,); without rows they are 0 and 1."""
    z2 = float(ndtri(0.5 + confidence / 2)) ** 2
    center = (correct + z2 / 2) / (rows + z2)
    half = np.sqrt(z2 * (correct * (1 - correct / np.maximum(rows, 1)) + z2 / 4)) / (rows + z2)
    # Rounding must not exclude 0 of n or n of n.
    low, high = np.where(correct == 0, 0.0, center - half), np.where(correct == rows, 1.0, center + half)
    return np.clip(low, 0, 1), np.clip(high, 0, 1)


def _row_statistics(labels: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray) -> sparse.csr_array:
    """Return the summands of each row, shape (K, N); all metrics are functions of their sums.

    K consists of C counts of correct rows, C of labels, C of predictions, a value for each `RowMetric`, and the bins of
    each `BinMetric`.
    """
    rows, num_labels = probabilities.shape
    correct, starts = labels == predicted, _starts(num_labels)
    entries = [
        (labels, correct.astype(np.float64)),
        (num_labels + labels, np.ones(rows)),
        (2 * num_labels + predicted, np.ones(rows)),
        *(
            (np.full(rows, column), metric.of_rows(labels, probabilities))
            for column, metric in enumerate(metrics.ROW_METRICS, start=3 * num_labels)
        ),
    ]
    for metric, start in zip(metrics.BIN_METRICS, starts[4:], strict=False):
        bins, summands = metric.of_rows(labels, probabilities)
        entries.append((start + bins, summands))
    columns, values = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    return sparse.csr_array((values, (columns, np.tile(np.arange(rows), len(entries)))), shape=(starts[-1], rows))


def _starts(num_labels: int) -> list[int]:
    """Return the first column of each part of the row statistics, and their number K."""
    sizes = [*[num_labels] * 3, len(metrics.ROW_METRICS), *(metric.bins for metric in metrics.BIN_METRICS)]
    return list(accumulate(sizes, initial=0))


def _metrics_of(chunks: Iterable[np.ndarray], num_labels: int) -> dict[str, np.ndarray]:
    """Return metrics (R,) from sums of row statistics (K, R), which are given in chunks along R."""
    parts: list[dict[str, np.ndarray]] = []
    for sums in chunks:
        correct, support, predicted, of_rows, *bins = np.split(sums, _starts(num_labels)[1:-1])
        counts, rows = metrics.Counts(correct, support, predicted), support.sum(axis=0)
        parts.append(
            {
                **{metric.name: metric.of_counts(counts) for metric in metrics.COUNT_METRICS},
                **{metric.name: total / rows for metric, total in zip(metrics.ROW_METRICS, of_rows, strict=True)},
                **{
                    metric.name: metric.of_sums(each, rows)
                    for metric, each in zip(metrics.BIN_METRICS, bins, strict=True)
                },
            }
        )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _leave_out(statistics: sparse.csr_array, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield sums of the statistics over all rows but one, (K, len(rows)), in chunks of bounded size."""
    totals, by_row = statistics.sum(axis=1)[:, None], statistics.tocsc()
    chunk = max(1, CHUNK // len(totals))
    for start in range(0, len(rows), chunk):
        yield totals - by_row[:, rows[start : start + chunk]].toarray()


def resampled_sums(statistics: sparse.csr_array, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield sums of the statistics over rows drawn with replacement, (K, resamples), in chunks of bounded size.

    Args:
        statistics: summands of each row, shape (K, N).
    """
    rng, rows = np.random.default_rng(seed), statistics.shape[1]
    chunk = max(1, CHUNK // max(statistics.shape))
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = rng.integers(rows, size=(size, rows)) + rows * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * rows).reshape(size, rows)
        yield statistics @ times.T.astype(np.float64)


def _accelerations(
    labels: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray, statistics: sparse.csr_array
) -> dict[str, float]:
    """Return the acceleration of every metric that gets a BCa interval."""
    num_labels = probabilities.shape[1]
    names = [metric.name for metric in metrics.COUNT_METRICS if metric.interval != "row share"]
    if len(labels) == 1:  # without which no row is left
        return dict.fromkeys([*names, *(metric.name for metric in metrics.ROW_METRICS)], 0.0)
    # Rows with the same label and prediction change count metrics equally.
    _, distinct, repeats = np.unique(labels * num_labels + predicted, return_index=True, return_counts=True)
    leave_one_out = _metrics_of(_leave_out(statistics, distinct), num_labels)
    return {
        **{name: _acceleration(leave_one_out[name], repeats) for name in names},
        **{metric.name: _acceleration(-metric.of_rows(labels, probabilities)) for metric in metrics.ROW_METRICS},
    }


def _acceleration(leave_one_out: np.ndarray, repeats: np.ndarray | float = 1.0) -> float:
    """Return a sixth of the skewness of a metric over the rows (Efron 1987).

    Args:
        leave_one_out: the metric without one row, on any scale, for each distinct row.
        repeats: number of rows like each distinct row.
    """
    repeats = np.broadcast_to(repeats, leave_one_out.shape)
    deviation = np.average(leave_one_out, weights=repeats) - leave_one_out
    squares = (repeats * deviation**2).sum()
    return float((repeats * deviation**3).sum() / (6 * squares**1.5)) if squares > 0 else 0.0


def _bca(value: float, resampled: np.ndarray, acceleration: float, z: float) -> tuple[float, float]:
    """Return bias-corrected and accelerated bounds; resamples equal to the value count half as below it."""
    below = ((resampled < value).mean() + (resampled <= value).mean()) / 2
    bias = ndtri(np.clip(below, 1 / len(resampled), 1 - 1 / len(resampled)))
    shifted = bias + np.array([-z, z])
    low, high = np.quantile(resampled, ndtr(bias + shifted / (1 - acceleration * shifted)))
    return float(low), float(high)


def percentile_bounds(value: float, resampled: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Return bias-corrected percentile bounds of a value from its bootstrap resamples (R,); without an acceleration."""
    return _bca(value, resampled, 0.0, float(ndtri(0.5 + confidence / 2)))


def _biased_upwards(value: float, resampled: np.ndarray, z: float) -> tuple[float, float]:
    """Return normal bounds within [0, 1], the lower one shifted by the bootstrap estimate of the bias."""
    bias, half = max(0.0, resampled.mean() - value), z * resampled.std()
    return max(0.0, value - bias - half), min(1.0, value + half)


def _by_influence(value: float, influence: np.ndarray, z: float) -> tuple[float, float]:
    """Return bounds from the rows' influence, normal on the logit scale, which keeps them between 0 and 1."""
    if value in (0.0, 1.0):
        return value, value
    half = z * np.sqrt((influence**2).sum()) / (value * (1 - value))
    return float(expit(logit(value) - half)), float(expit(logit(value) + half))
