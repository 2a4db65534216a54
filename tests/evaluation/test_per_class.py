"""Scores of each class: by hand, against scikit-learn, and the coverage of their intervals."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_fscore_support

from hf_finetune.errors import InputError
from hf_finetune.evaluation.intervals import bootstrap, wilson
from hf_finetune.evaluation.metrics import softmax
from hf_finetune.evaluation.per_class import class_section, per_class
from hf_finetune.evaluation.report import per_class_table, worst_classes

NAMES = ("bad", "good", "neutral")


def test_values_by_hand() -> None:
    """Two of three bad rows are right, and one good row is called bad; neutral is never predicted."""
    bad, good, neutral = per_class([0, 0, 0, 1, 1, 2], [0, 0, 1, 0, 1, 1], NAMES)
    assert (bad.precision.value, bad.recall.value, bad.f1.value) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert (good.precision.value, good.recall.value, good.f1.value) == pytest.approx((1 / 3, 1 / 2, 2 / 5))
    assert (bad.support, bad.predicted, bad.precision.n, bad.recall.n, bad.f1.n) == (3, 3, 3, 3, 4)
    assert neutral.precision is None and neutral.recall.value == 0 and neutral.f1.value == 0
    # Wilson 1927 for 0 of 1: from 0 to z^2 / (1 + z^2).
    assert (neutral.recall.low, neutral.recall.high) == pytest.approx((0, 0.7935), abs=1e-4)


def test_bounds_by_hand() -> None:
    """The textbook's 95% interval of 8 of 10."""
    low, high = wilson(np.array([8, 0, 10, 0]), np.array([10, 10, 10, 0]))
    assert (low[0], high[0]) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert (low[1], high[2]) == (0, 1) and high[1] == pytest.approx(1 - low[2]) == pytest.approx(0.2775, abs=1e-4)
    assert (low[3], high[3]) == (0, 1)


def test_a_class_without_rows() -> None:
    _, lacking, predicted = per_class([0, 0, 0], [0, 0, 2], NAMES)
    assert (lacking.precision, lacking.recall, lacking.f1) == (None, None, None)
    assert (predicted.precision.value, predicted.recall, predicted.f1.value) == (0, None, 0)
    assert class_section([lacking]) == {
        "good": {"precision": None, "recall": None, "f1": None, "support": 0, "predicted": 0}
    }


@settings(max_examples=100, deadline=None)
@given(rows=st.integers(1, 80), num_labels=st.integers(2, 9), seed=st.integers(0, 2**31))
def test_equal_to_scikit_learn_and_within_their_bounds(rows: int, num_labels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(num_labels, size=(2, rows))
    scores = per_class(labels, predicted, [str(c) for c in range(num_labels)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # for classes without rows
        expected = precision_recall_fscore_support(labels, predicted, labels=range(num_labels))
    for each, *values in zip(scores, *expected, strict=True):
        for score, value in zip((each.precision, each.recall, each.f1), values, strict=False):
            assert score is None or (score.value == pytest.approx(value) and 0 <= score.low <= value + 1e-12)
            assert score is None or value - 1e-12 <= score.high <= 1
        assert each.support == values[3]


def test_intervals_cover_the_true_scores() -> None:
    """Of a class of one row in twenty, in samples of 60 rows, where a bootstrap covers about 70%."""
    rng, confused = np.random.default_rng(0), np.array([[0.9, 0.08, 0.02], [0.15, 0.8, 0.05], [0.3, 0.3, 0.4]])
    shares = np.array([0.7, 0.25, 0.05])
    joint = shares[:, None] * confused
    true = {"precision": joint[2, 2] / joint[:, 2].sum(), "recall": confused[2, 2]}
    true["f1"] = 2 * joint[2, 2] / (joint[:, 2].sum() + joint[2].sum())
    covered: dict[str, list[bool]] = {name: [] for name in true}
    for _ in range(400):
        cells = rng.choice(9, size=60, p=joint.ravel())
        rare = per_class(cells // 3, cells % 3, NAMES)[2]
        for name, value in true.items():
            if (score := getattr(rare, name)) is not None:
                covered[name].append(score.low <= value <= score.high)
    assert all(0.93 <= np.mean(each) <= 0.99 for each in covered.values())


def test_ids_without_a_name_are_refused() -> None:
    with pytest.raises(InputError, match="0 to 1, got 2"):
        per_class([0, 1], [0, 2], ["a", "b"])


def test_a_mean_that_leaves_classes_out_says_so() -> None:
    """Macro F1 leaves out a class that neither occurs nor is predicted, balanced accuracy each that does not occur."""
    scores = softmax(np.array([[9.0, 0, 0], [0, 9, 0], [9, 0, 0], [0, 9, 0]]))
    metrics = bootstrap([0, 1, 0, 1], scores)
    assert metrics["macro_f1"].value == 1 and metrics["macro_f1"].classes == (2, 3)
    assert metrics["macro_f1"].to_dict()["classes"] == [2, 3] and "classes" not in metrics["accuracy"].to_dict()
    scores[0] = [0, 0, 1]
    metrics = bootstrap([0, 1, 0, 1], scores)
    assert metrics["macro_f1"].classes is None and metrics["balanced_accuracy"].classes == (2, 3)


TABLE = """\
class      precision         recall            f1                rows
neutral    -                 0.000 [.00, .79]  0.000 [.00, .88]     1
bad        0.667 [.21, .94]  0.667 [.21, .94]  0.667 [.26, .92]     3
an ...ass  -                 -                 -                    0"""


def test_table() -> None:
    section = class_section(per_class([0, 0, 0, 2], [0, 0, 1, 0], ("bad", "an absent class", "neutral")))
    section["an absent class"] = {**section["an absent class"], "precision": None, "f1": None}
    assert worst_classes(section) == ["neutral", "bad", "an absent class"]
    assert worst_classes(section, 1) == ["neutral"]
    assert per_class_table(section, width=69) == TABLE
    assert per_class_table(section, most=2).endswith("... and 1 class with a higher F1")
    assert max(map(len, per_class_table(section, width=80).splitlines())) <= 80
