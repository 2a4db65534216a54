"""Intervals: values, coverage in simulations, edge cases, speed; paired differences and verdicts."""

import tracemalloc

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit
from sklearn.metrics import f1_score

from hf_finetune.errors import InputError
from hf_finetune.evaluation import metrics
from hf_finetune.evaluation.intervals import Interval, bootstrap, exact
from hf_finetune.evaluation.paired import paired_difference, paired_macro_f1, verdict


def draw(rng: np.random.Generator, rows: int, num_labels: int, signal: float) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.integers(num_labels, size=rows)
    return labels, metrics.softmax(rng.normal(size=(rows, num_labels)) + signal * np.eye(num_labels)[labels])


def missed(truth: float, intervals: list[Interval]) -> float:
    return float(np.mean([not interval.low <= truth <= interval.high for interval in intervals]))


def test_values_and_bounds_are_in_order() -> None:
    labels, probabilities = draw(np.random.default_rng(0), 300, 4, 2.0)
    values, intervals = metrics.classification_metrics(labels, probabilities), bootstrap(labels, probabilities)
    assert list(intervals) == list(values)
    for name, interval in intervals.items():
        assert interval.value == pytest.approx(values[name], abs=1e-12)
        assert interval.low < interval.value < interval.high
        assert interval.to_dict() == {"value": interval.value, "low": interval.low, "high": interval.high, "n": 300}
        assert {type(number) for number in (interval.value, interval.low, interval.high)} == {float}


def test_seeded() -> None:
    labels, probabilities = draw(np.random.default_rng(0), 100, 3, 1.0)
    assert bootstrap(labels, probabilities, seed=1) == bootstrap(labels, probabilities, seed=1)
    assert bootstrap(labels, probabilities, seed=1) != bootstrap(labels, probabilities, seed=2)


def test_spread_is_that_of_scikit_learn_on_resampled_rows() -> None:
    rng = np.random.default_rng(0)
    labels, probabilities = draw(rng, 2000, 3, 1.5)
    predicted = probabilities.argmax(axis=1)
    drawn = (rng.integers(2000, size=2000) for _ in range(300))
    deviation = np.std([f1_score(labels[rows], predicted[rows], average="macro") for rows in drawn])
    interval = bootstrap(labels, probabilities)["macro_f1"]
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * deviation, rel=0.15)


@pytest.mark.parametrize(("rows", "share"), [(50, 0.5), (50, 0.9), (50, 0.98), (200, 0.5), (200, 0.9), (200, 0.98)])
def test_accuracy_covers(rows: int, share: float) -> None:
    right, sets = np.unique(np.random.default_rng(rows).binomial(rows, share, size=2000), return_counts=True)
    covered = 0
    for count, times in zip(right, sets, strict=True):
        # Class 1 in every row; the model says so in `count` of them.
        scores = np.tile([0.2, 0.8], (rows, 1))
        scores[count:] = [0.8, 0.2]
        interval = bootstrap(np.ones(rows, dtype=int), scores, resamples=100)["accuracy"]
        covered += times * (interval.low <= share <= interval.high)
    assert 0.93 <= covered / 2000 <= 0.99


def test_f1_log_loss_and_area_cover() -> None:
    rng = np.random.default_rng(0)
    truth = metrics.classification_metrics(*draw(rng, 400_000, 3, 2.0))
    sets = [bootstrap(*draw(rng, 200, 3, 2.0), resamples=200) for _ in range(400)]
    for name in ("macro_f1", "weighted_f1", "balanced_accuracy", "matthews_correlation", "log_loss", "roc_auc"):
        assert missed(truth[name], [intervals[name] for intervals in sets]) <= 0.10, name
        # Neither bound does all the missing.
        low = np.mean([intervals[name].low > truth[name] for intervals in sets])
        assert 0.003 < low < 0.07, name


@pytest.mark.parametrize(("shares", "rows"), [((0.49, 0.49, 0.02), 60), ((0.49, 0.49, 0.02), 150), ((0.05,) * 20, 60)])
def test_means_over_classes_of_a_few_rows_cover(shares: tuple[float, ...], rows: int) -> None:
    """A bootstrap alone misses 31%, 13% and 9%; if a class that a resample lacks counts as 0, 15%, 9% and 37%."""
    rng, prior, right = np.random.default_rng(0), np.array(shares), 0.8
    others = prior[:, None] * prior / (1 - prior[:, None]) * (1 - right)
    joint = others - np.diag(np.diag(others)) + np.diag(prior * right)
    truth = float(np.mean(2 * np.diag(joint) / (joint.sum(axis=0) + joint.sum(axis=1))))
    intervals: list[Interval] = []
    while len(intervals) < 150:
        cells = np.repeat(np.arange(joint.size), rng.multinomial(rows, joint.ravel()))
        labels, predicted = np.divmod(cells, len(prior))
        if len(np.unique(labels)) == len(prior):
            scores = 0.9 * np.eye(len(prior))[predicted] + 0.1 / len(prior)
            intervals.append(bootstrap(labels, scores, resamples=200)["macro_f1"])
    assert missed(truth, intervals) <= 0.1


@pytest.mark.parametrize("wrong", [False, True])
def test_rows_without_a_mistake_do_not_claim_certainty(wrong: bool) -> None:
    labels = np.repeat([0, 1], [40, 10])
    scores = np.eye(2)[labels ^ wrong] * 0.8 + 0.1
    intervals = bootstrap(labels, scores)
    low, high = exact(0 if wrong else 50, 50)
    assert (intervals["accuracy"].low, intervals["accuracy"].high) == (low, high)
    assert high - low == pytest.approx(1 - 0.025 ** (1 / 50))
    for name in ("balanced_accuracy", "macro_f1", "roc_auc"):
        # The ten rows of the rarer class weigh as much as the forty: less certain than 50 rows, more than 10.
        width = intervals[name].high - intervals[name].low
        assert 1 - 0.025 ** (1 / 50) < width < 1 - 0.025 ** (1 / 10)
    if not wrong:
        assert intervals["matthews_correlation"].low == pytest.approx(2 * intervals["macro_f1"].low - 1)


def test_area_is_left_out_when_a_class_has_no_rows() -> None:
    assert "roc_auc" not in bootstrap(np.array([0, 0, 1]), np.eye(3)[[0, 1, 1]] * 0.7 + 0.1)


def test_exact_bounds_are_those_of_scipy() -> None:
    for right, rows in ((0, 7), (3, 7), (7, 7), (45, 50)):
        expected = stats.binomtest(right, rows).proportion_ci(method="exact")
        assert exact(right, rows) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_too_few_resamples_are_refused() -> None:
    with pytest.raises(InputError, match="resamples: expected 100 or more, got 10"):
        bootstrap([0, 1], np.eye(2), resamples=10)


def test_small() -> None:
    labels, probabilities = draw(np.random.default_rng(0), 10_000, 20, 3.0)
    tracemalloc.start()
    bootstrap(labels, probabilities)
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()


def test_paired_difference_by_hand() -> None:
    # Eight rows, a right in 6, b in 3, plus the two added rows: differences 1 x4, -1 x1, 0 x3, then +1 and -1.
    a, b = np.array([1, 1, 1, 1, 1, 1, 0, 0]), np.array([1, 1, 0, 0, 0, 0, 1, 0])
    interval = paired_difference(a, b)
    padded = np.array([0, 0, 1, 1, 1, 1, -1, 0, 1, -1])
    half = stats.t.ppf(0.975, 9) * padded.std(ddof=1) / np.sqrt(10)
    assert interval.value == 3 / 8
    assert (interval.low, interval.high) == pytest.approx((0.3 - half, 0.3 + half))
    assert interval.n == 8


def test_paired_difference_is_antisymmetric() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 3, 90)) < 0.7
    one, other = paired_difference(a, b), paired_difference(b, a)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))


def test_agreement_is_certain_only_with_many_rows() -> None:
    assert verdict(paired_difference(np.ones(20, int), np.ones(20, int))) == "undecided"
    assert verdict(paired_difference(np.ones(2000, int), np.ones(2000, int))) == "no worse"


def test_seeds_that_disagree_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    steady, swinging = np.array([0.8, 0.8, 0.8]), np.array([0.7, 0.8, 0.9])
    b = rng.random((3, 1000)) < 0.8
    narrow, wide = (paired_difference(rng.random((3, 1000)) < p[:, None], b) for p in (steady, swinging))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


@pytest.mark.parametrize(("seeds", "seed_deviation"), [(1, 0.0), (3, 0.0), (3, 0.2), (5, 0.2)])
def test_paired_difference_covers(seeds: int, seed_deviation: float) -> None:
    rng = np.random.default_rng(seeds)
    shift, rows, runs = 0.3, 300, 600
    covered = 0
    for _ in range(runs):
        difficulty = rng.normal(size=rows)
        noise = rng.normal(size=(2, seeds, 1)) * seed_deviation
        a = rng.random((seeds, rows)) < expit(1 + shift + difficulty + noise[0])
        b = rng.random((seeds, rows)) < expit(1 + difficulty + noise[1])
        interval = paired_difference(a, b)
        covered += interval.low <= TRUTH[seed_deviation] <= interval.high
    assert 0.92 <= covered / runs <= 0.995


def _expected_difference(seed_deviation: float) -> float:
    spread = np.random.default_rng(0).normal(size=2_000_000) * np.sqrt(1 + seed_deviation**2)
    return float(expit(1.3 + spread).mean() - expit(1 + spread).mean())


TRUTH = {deviation: _expected_difference(deviation) for deviation in (0.0, 0.2)}


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1, 0], [1], "two arrays of shape"),
        ([], [], "two arrays of shape"),
        (np.ones((2, 2, 2)), np.ones((2, 2, 2)), "two arrays of shape"),
        ([0.5, 1], [1, 1], "expected 0"),
        ([float("nan"), 1], [1, 1], "expected 0"),
    ],
)
def test_refused_pairs(a: list, b: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        paired_difference(a, b)


def answers(rng: np.random.Generator, labels: np.ndarray, right: float | np.ndarray, seeds: int) -> np.ndarray:
    """Class ids (S, N), correct with this probability, else random."""
    shape = (seeds, len(labels))
    return np.where(rng.random(shape) < right, labels, rng.integers(4, size=shape))


def test_paired_macro_f1_by_hand() -> None:
    """a has F1 scores of 2/3 and 4/5, b of 0 and 2/3; seeds are averaged."""
    labels, a, b = [0, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]
    expected = (2 / 3 + 4 / 5) / 2 - (0 + 2 / 3) / 2
    assert paired_macro_f1(labels, a, b).value == pytest.approx(expected)
    assert paired_macro_f1(labels, [a, b], [b, b]).value == pytest.approx(expected / 2)
    same = paired_macro_f1(labels, a, a)
    assert (same.value, same.low, same.high, same.n) == (0.0, 0.0, 0.0, 4)
    with pytest.raises(InputError, match="labels of shape"):
        paired_macro_f1(labels, a[:3], b[:3])
    one = paired_macro_f1([0], [[0], [0]], [[1], [1]])
    assert (one.low, one.value, one.high) == (-1, 1, 1), "of one row alone nothing follows"


def test_paired_macro_f1_is_as_wide_as_resampling_says() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(4, size=800, p=(0.6, 0.2, 0.15, 0.05))
    a, b = answers(rng, labels, 0.8, 1)[0], answers(rng, labels, 0.7, 1)[0]
    difference = paired_macro_f1(labels, a, b)
    score = lambda of, rows: f1_score(labels[rows], of[rows], average="macro")  # noqa: E731
    assert difference.value == pytest.approx(score(a, slice(None)) - score(b, slice(None)))
    resampled = [score(a, rows) - score(b, rows) for rows in rng.integers(800, size=(400, 800))]
    assert (difference.high - difference.low) / 2 == pytest.approx(1.96 * np.std(resampled), rel=0.15)


def test_paired_macro_f1_covers() -> None:
    """Five seeds of different skill; the true difference is that of the mean skills."""
    rng = np.random.default_rng(1)
    shares = (0.6, 0.2, 0.15, 0.05)

    def skills(mean: float) -> np.ndarray:
        return mean + 0.02 * rng.uniform(-1, 1, size=(5, 1))

    many = rng.choice(4, size=400_000, p=shares)
    truth = paired_macro_f1(many, answers(rng, many, 0.8, 1), answers(rng, many, 0.75, 1)).value
    covered = 0
    for _ in range(200):
        labels = rng.choice(4, size=400, p=shares)
        interval = paired_macro_f1(labels, answers(rng, labels, skills(0.8), 5), answers(rng, labels, skills(0.75), 5))
        covered += interval.low <= truth <= interval.high
    assert 0.9 <= covered / 200 <= 0.995


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.001, 0.02, "better"),
        (0.0, 0.02, "no worse"),
        (-0.009, 0.02, "no worse"),
        (-0.009, -0.001, "no worse"),
        (-0.01, 0.02, "undecided"),
        (-0.03, 0.0, "undecided"),
        (-0.03, -0.001, "worse"),
    ],
)
def test_verdict(low: float, high: float, expected: str) -> None:
    assert verdict(Interval((low + high) / 2, low, high, 100)) == expected


def test_verdict_by_another_margin() -> None:
    assert verdict(Interval(0.0, -0.007, 0.007, 100), margin=0.005) == "undecided"
