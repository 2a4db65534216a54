"""Tags of words by hand: the weights of their loss and of a fitted head, and what is counted of entities."""

import numpy as np
import pytest
import torch

from hf_finetune.data.ragged import Ragged
from hf_finetune.data.sampling import classes_of
from hf_finetune.tasks.base import HeadFit
from hf_finetune.tasks.tokens import Entities, Tags
from hf_finetune.training.losses.class_weights import Balanced, PerClass

BIO = ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")
LABELS = Ragged.of(np.array([1, 3, 4, 4, 0, 4, 4, 4]), [4, 1, 3])


def test_class_weights_are_of_words_by_hand() -> None:
    """One word of tag a and three of b: 2 and 2/3, whose mean over the words is 1."""
    task, tags = Tags(("a", "b")), Ragged.of(np.array([0, 1, 1, 1]), [1, 3])
    weights = task.class_weights(Balanced(), task.rows_per_output(tags).tolist(), len(tags))
    assert weights == pytest.approx((2, 2 / 3))
    weighted = task.training_loss(None, 0.0, torch.tensor(weights), None)
    # Each word has log 2, whatever its tag.
    losses_W = weighted.of_rows(torch.zeros(4, 2), torch.tensor(tags.values))
    assert losses_W.tolist() == pytest.approx([2 * np.log(2), *[2 / 3 * np.log(2)] * 3])
    assert task.class_weights(PerClass({"a": 3.0}), (1, 3), 2) == pytest.approx((2, 2 / 3))


def test_logit_adjustment_is_of_words_by_hand() -> None:
    """Equal logits with shares of 1/4 and 3/4 are the shares."""
    shift = torch.log(torch.tensor([0.25, 0.75]))
    loss = Tags(("a", "b")).training_loss(None, 0.0, None, shift)
    assert loss.of_rows(torch.zeros(2, 2), torch.tensor([0, 1])).tolist() == pytest.approx(
        [-np.log(0.25), -np.log(0.75)]
    )


def test_a_word_of_weight_2_counts_as_two_in_a_fitted_head() -> None:
    rng, task = np.random.default_rng(0), Tags(("a", "b"))
    features, tags = rng.normal(size=(40, 3)), np.arange(40) % 2
    features[:, 0] += tags
    twice = np.where(tags == 0, 2, 1)
    weighted = task.fit_head(features, Ragged.of(tags, [40]), HeadFit(1.0, weights_N=twice.astype(float)))
    repeated = np.repeat(np.arange(40), twice)
    plain = task.fit_head(features[repeated], Ragged.of(tags[repeated], [60]), HeadFit(1.0))
    # Both are standardized by their own rows.
    scores = [features @ head.weight_CD.numpy().T + head.bias_C.numpy() for head in (weighted, plain)]
    assert np.abs(scores[0] - scores[1]).max() < 0.2 and classes_of(LABELS) is LABELS


def test_entities_are_counted_by_kind() -> None:
    assert Entities(BIO).support(LABELS) == {"LOC": 1, "PER": 1}
    assert Tags(BIO).support(LABELS) == {"B-LOC": 1, "B-PER": 1, "I-LOC": 0, "I-PER": 1, "O": 5}
