"""Similarity of layers against values by hand, and the best pairs against all possible pairs."""

import itertools
import math

import numpy as np
import pytest
import torch

from hf_finetune.distillation.feature_matching.layer_search import (
    TOKENS_OF_A_ROW,
    AttentionSimilarity,
    HiddenStateSimilarity,
    best_pairs,
    linear_cka,
)
from hf_finetune.distillation.losses.base import Features

MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_linear_cka_by_hand() -> None:
    """Centered (-1, 0, 1) and (-1, -1, 2): 3^2 / (2 x 6). Corners of a square and one diagonal: 2^2 / (sqrt 8 x 2)."""
    assert linear_cka([column(0, 1, 2)], [column(0, 0, 3)]).tolist() == [[pytest.approx(0.75)]]
    square = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    actual = linear_cka([square], [column(1, -1, 0, 0), square, column(5, 5, 5, 5)])
    assert actual.tolist() == [[pytest.approx(math.sqrt(0.5)), pytest.approx(1.0), 0.0]]


def test_invariances_of_linear_cka() -> None:
    """Rotations, factors and shifts do not change it, stretching one feature does. It is symmetric."""
    generator = torch.Generator().manual_seed(0)
    x_ND, y_NE = (torch.randn(50, width, generator=generator, dtype=torch.float64) for width in (6, 4))
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64)).Q
    moved = 7 * x_ND @ rotation + 3
    stretched = x_ND * torch.tensor([9.0, 1, 1, 1, 1, 1])
    ((itself, of_moved, of_stretched),) = linear_cka([x_ND], [x_ND, moved, stretched])
    assert itself == pytest.approx(1.0) == of_moved and of_stretched < 0.9
    ((one, same, _),) = linear_cka([y_NE], [x_ND, moved, stretched])
    assert one == pytest.approx(same) and one == pytest.approx(linear_cka([x_ND], [y_NE])[0, 0]) and 0 < one < 0.5


def test_best_pairs_by_hand() -> None:
    """The most similar layers, 3 and 2, would cross; 3 and 4 have the sum 1.4, as 1 and 4 have, and 1 is lower."""
    likeness_SL = np.array([[0.5, 0.1, 0.5, 0.0], [0.2, 0.8, 0.6, 0.9]])
    assert best_pairs(likeness_SL) == ((1, 1), (2, 4))
    # The last is paired with the last, however dissimilar.
    assert best_pairs(np.array([[0.0, 0.0, 1.0], [0.9, 1.0, 0.0]])) == ((1, 1), (2, 3))
    assert best_pairs(np.array([[0.3, 0.9]])) == best_pairs(np.array([[0.9, 0.3]])) == ((1, 2),)
    # Equal numbers: one to one. Fewer teacher layers: several student layers with one.
    assert best_pairs(np.eye(3)[::-1]) == ((1, 1), (2, 2), (3, 3))
    assert best_pairs(-np.array([[0.1, 0.2], [0.3, 0.1], [0.2, 0.3]])) == ((1, 1), (2, 2), (3, 2))


@pytest.mark.parametrize(("student", "teacher"), [(1, 4), (3, 3), (3, 6), (4, 6), (5, 3), (2, 1)])
def test_best_pairs_against_all_pairs(student: int, teacher: int) -> None:
    """Random tables: the largest sum of all ordered pairs that end with the last layers."""
    steps = (lambda a, b: a < b) if teacher >= student else (lambda a, b: a <= b)
    every = [
        (*first, teacher - 1)
        for first in itertools.product(range(teacher), repeat=student - 1)
        if all(steps(a, b) for a, b in itertools.pairwise((*first, teacher - 1)))
    ]
    for seed in range(20):
        likeness_SL = np.random.default_rng(seed).normal(size=(student, teacher))
        sums = [sum(likeness_SL[own, layer] for own, layer in enumerate(layers)) for layers in every]
        best = every[int(np.argmax(sums))]
        assert best_pairs(likeness_SL) == tuple((own + 1, layer + 1) for own, layer in enumerate(best))


def test_padding_is_ignored() -> None:
    """The padding of the first row would make the layers dissimilar."""
    own = torch.tensor([[[0.0], [1.0], [99.0]], [[2.0], [3.0], [4.0]]])
    theirs = torch.tensor([[[10.0], [8.0], [0.0]], [[6.0], [4.0], [2.0]]])
    similarity = HiddenStateSimilarity(0)
    of_teacher = {1: theirs.flip(1), 2: theirs}
    similarity.add(Features(MASK, {1: own}), Features(MASK, of_teacher))
    actual = similarity.similarity()
    assert actual.shape == (1, 2) and actual[0, 0] < 0.99 and actual[0, 1] == pytest.approx(1.0)


def test_tokens_are_sampled_by_the_seed() -> None:
    """The same tokens of both networks, up to a number in each row, or all of a short row; batches add up."""
    ramp_BTD = torch.arange(3 * 40.0).view(3, 40, 1)
    mask_BT = torch.ones(3, 40)
    mask_BT[0, 5:] = 0
    drawn = []
    for seed in (0, 0, 1):
        similarity = HiddenStateSimilarity(seed)
        for part in (slice(0, 1), slice(1, 3)):
            states = Features(mask_BT[part], {1: ramp_BTD[part]})
            similarity.add(states, states)
        own, theirs = (torch.cat([layers[0] for layers in kept]).flatten().tolist() for kept in similarity._states)
        assert own == theirs and len(set(own)) == len(own) == 5 + 2 * TOKENS_OF_A_ROW
        assert sorted(own)[:5] == [0, 1, 2, 3, 4]
        drawn.append(own)
    assert drawn[0] == drawn[1] != drawn[2]


def test_attention_by_hand() -> None:
    """The second of two tokens attends to both by halves in the student, and so does the mean of the heads in the
    teacher's first layer; in the second layer by 1/4 and 3/4. The first token attends alike in all."""
    far, flat = 40.0, torch.zeros(1, 2, 2)

    def projected(scores: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return queries and keys of two heads of width 1 that give the second token these scores."""
        query = torch.stack([torch.zeros(2), torch.ones(2)])[None]
        return {"query": query, "key": scores[None], "value": flat}

    opposite = projected(torch.tensor([[far, 0.0], [0.0, far]]))
    skewed = projected(torch.tensor([[0.0, 0.0], [math.log(3), math.log(3)]]))
    similarity = AttentionSimilarity((1, 2))
    for _ in range(2):
        similarity.add(Features(attention={1: projected(flat[0])}), Features(attention={2: skewed, 1: opposite}))
    kl = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert similarity.similarity().tolist() == [[pytest.approx(0.0, abs=1e-6), pytest.approx(-kl / 2, abs=1e-6)]]
