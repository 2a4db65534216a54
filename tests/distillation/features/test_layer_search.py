"""How similarity layers are, against numbers made by hand, and the map that follows against all maps there are."""

import itertools
import math

import numpy as np
import pytest
import torch

from hf_finetune.distillation.features.layer_search import (
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
    """Centred (-1, 0, 1) and (-1, -1, 2): 3^2 / (2 x 6). A square's corners beside one of its diagonals: 2^2 / (sqrt 8
    x 2)."""
    assert linear_cka([column(0, 1, 2)], [column(0, 0, 3)]).tolist() == [[pytest.approx(0.75)]]
    square = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    found = linear_cka([square], [column(1, -1, 0, 0), square, column(5, 5, 5, 5)])
    assert found.tolist() == [[pytest.approx(math.sqrt(0.5)), pytest.approx(1.0), 0.0]]


def test_what_linear_cka_does_not_see() -> None:
    """A rotation, a factor and a shift; what stretches one feature alone it does see. Either way round it is the
    same."""
    generator = torch.Generator().manual_seed(0)
    x_ND, y_NE = (torch.randn(50, width, generator=generator, dtype=torch.float64) for width in (6, 4))
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64)).Q
    moved = 7 * x_ND @ rotation + 3
    stretched = x_ND * torch.tensor([9.0, 1, 1, 1, 1, 1])
    ((itself, of_moved, of_stretched),) = linear_cka([x_ND], [x_ND, moved, stretched])
    assert itself == pytest.approx(1.0) == of_moved and of_stretched < 0.9
    ((one, same, _),) = linear_cka([y_NE], [x_ND, moved, stretched])
    assert one == pytest.approx(same) and one == pytest.approx(linear_cka([x_ND], [y_NE])[0, 0]) and 0 < one < 0.5


def test_a_map_by_hand() -> None:
    """The likest of each alone, 3 and 2, would cross; 3 and 4 are worth 1.4, 1 and 4 as much, and 1 is lower."""
    likeness_SL = np.array([[0.5, 0.1, 0.5, 0.0], [0.2, 0.8, 0.6, 0.9]])
    assert best_pairs(likeness_SL) == ((1, 1), (2, 4))
    # The last has the last, however unlike, and the others what is left before it.
    assert best_pairs(np.array([[0.0, 0.0, 1.0], [0.9, 1.0, 0.0]])) == ((1, 1), (2, 3))
    assert best_pairs(np.array([[0.3, 0.9]])) == best_pairs(np.array([[0.9, 0.3]])) == ((1, 2),)
    # As many: each its own. Fewer: several with one.
    assert best_pairs(np.eye(3)[::-1]) == ((1, 1), (2, 2), (3, 3))
    assert best_pairs(-np.array([[0.1, 0.2], [0.3, 0.1], [0.2, 0.3]])) == ((1, 1), (2, 2), (3, 2))


@pytest.mark.parametrize(("student", "teacher"), [(1, 4), (3, 3), (3, 6), (4, 6), (5, 3), (2, 1)])
def test_a_map_against_all_others(student: int, teacher: int) -> None:
    """The largest sum of all maps in order that end with the last, on tables at random."""
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


def test_states_of_tokens_that_are_no_padding() -> None:
    """The padding of the first row would make the two unlike."""
    own = torch.tensor([[[0.0], [1.0], [99.0]], [[2.0], [3.0], [4.0]]])
    theirs = torch.tensor([[[10.0], [8.0], [0.0]], [[6.0], [4.0], [2.0]]])
    similarity = HiddenStateSimilarity(0)
    of_teacher = {1: theirs.flip(1), 2: theirs}
    similarity.add(Features(MASK, {1: own}), Features(MASK, of_teacher))
    found = similarity.similarity()
    assert found.shape == (1, 2) and found[0, 0] < 0.99 and found[0, 1] == pytest.approx(1.0)


def test_tokens_are_drawn_by_the_seed() -> None:
    """Up to so many of a row, the same of both networks; of a short row all; batches add up."""
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
    """One token of two attends by halves in the student; in the teacher's first layer so do both heads together, one to
    each token, in its second both by 1/4 and 3/4. The other token attends similarity in all."""
    far, flat = 40.0, torch.zeros(1, 2, 2)

    def projected(scores: torch.Tensor) -> dict[str, torch.Tensor]:
        """Of two heads of width 1: the second token's query meets keys that score so."""
        query = torch.stack([torch.zeros(2), torch.ones(2)])[None]
        return {"query": query, "key": scores[None], "value": flat}

    opposite = projected(torch.tensor([[far, 0.0], [0.0, far]]))
    skewed = projected(torch.tensor([[0.0, 0.0], [math.log(3), math.log(3)]]))
    similarity = AttentionSimilarity((1, 2))
    for _ in range(2):
        similarity.add(Features(attention={1: projected(flat[0])}), Features(attention={2: skewed, 1: opposite}))
    kl = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert similarity.similarity().tolist() == [[pytest.approx(0.0, abs=1e-6), pytest.approx(-kl / 2, abs=1e-6)]]
