import math

import pytest

from hf_finetune.errors import InputError
from hf_finetune.training.losses.class_weights import log_shares
from hf_finetune.training.losses.config import Balanced, EffectiveNumber, PerClass

COUNTS, NAMES = (6, 2), ("common", "rare")


@pytest.mark.parametrize("weights", [Balanced(), EffectiveNumber(), PerClass({"rare": 5.0})])
def test_mean_weight_of_the_rows_is_one(weights: Balanced | EffectiveNumber | PerClass) -> None:
    common, rare = weights(COUNTS, NAMES)
    assert (6 * common + 2 * rare) / 8 == pytest.approx(1) and rare > common


def test_balanced_by_hand() -> None:
    """8 rows, 2 classes: each is to count 4."""
    assert Balanced()(COUNTS, NAMES) == pytest.approx((4 / 6, 4 / 2))


def test_effective_number_by_hand() -> None:
    """With beta 1/2: effective numbers 2 (1 - 1/64) and 2 (1 - 1/4), so the ratio of the weights is (63/64) / (3/4)."""
    common, rare = EffectiveNumber(0.5)(COUNTS, NAMES)
    assert rare / common == pytest.approx(63 / 64 / 0.75)
    assert EffectiveNumber(0.0)(COUNTS, NAMES) == pytest.approx((1, 1))
    assert EffectiveNumber(1 - 1e-9)(COUNTS, NAMES) == pytest.approx(Balanced()(COUNTS, NAMES), rel=1e-4)


def test_per_class_by_hand() -> None:
    """Weights 1 and 5 of 6 and 2 rows: their mean is 2."""
    assert PerClass({"rare": 5.0})(COUNTS, NAMES) == pytest.approx((0.5, 2.5))
    with pytest.raises(
        InputError, match=r"objective.class_weights.weights: expected names of classes \(common, rare\)"
    ):
        PerClass({"rear": 5.0})(COUNTS, NAMES)


def test_classes_without_rows_do_not_divide_by_zero() -> None:
    assert all(math.isfinite(w) for w in (*Balanced()((6, 0), NAMES), *EffectiveNumber()((6, 0), NAMES)))
    assert log_shares((6, 0)) == pytest.approx((math.log(6 / 7), math.log(1 / 7)))


def test_weights_of_tags_by_hand() -> None:
    """Rows without a tag for each row with it, of 8; bounded for a tag of no row, and of all."""
    assert Balanced().of_tags((6, 2), NAMES, 8) == pytest.approx((2 / 6, 6 / 2))
    assert Balanced().of_tags((0, 800), NAMES, 800) == (100.0, 0.01)
    assert PerClass({"rare": 5.0}).of_tags((6, 2), NAMES, 8) == (1.0, 5.0)
    with pytest.raises(InputError, match="expected names of tags"):
        PerClass({"rear": 5.0}).of_tags((6, 2), NAMES, 8)
    with pytest.raises(InputError, match="expected Balanced or PerClass with multi-label, got EffectiveNumber"):
        EffectiveNumber().of_tags((6, 2), NAMES, 8)
