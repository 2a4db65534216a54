"""Loss functions against values by hand, and their gradients in float64 against finite differences."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch

from hf_finetune.distillation.config import Embedding, EmbeddingKind, RelationalKD
from hf_finetune.distillation.losses.functional import (
    attention_kl,
    attention_mse,
    log_attention,
    mean_over_heads,
    squared_difference,
)
from hf_finetune.training.losses.contrastive import contrastive

LN3 = math.log(3)
MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])


def loss_of(kind: EmbeddingKind, student_BD: torch.Tensor, teacher_BD: torch.Tensor) -> torch.Tensor:
    """Compute the loss between embeddings of one width."""
    return kind.compare(student_BD, teacher_BD)


cosine = partial(loss_of, Embedding())
relational_distance = partial(loss_of, RelationalKD(distance=1.0, angle=0.0))
relational_angle = partial(loss_of, RelationalKD(distance=0.0, angle=1.0))


def test_squared_difference_by_hand() -> None:
    """Tokens with squares of 1 and 4 have the mean 2.5; padding is ignored."""
    student = torch.zeros(2, 3, 2)
    teacher = torch.tensor([[[1.0, 1.0], [2.0, 2.0], [99.0, 99.0]], [[1.0, 1.0], [2.0, 2.0], [2.0, 2.0]]])
    assert squared_difference(student, teacher, MASK).tolist() == [2.5, 3.0]
    assert squared_difference(student[1:], teacher[1:]).tolist() == [3.0]


def test_attention_by_hand() -> None:
    """One head of width 1: query 1 attends to keys 0 and ln 3 by 1/4 and 3/4; the third key is padding."""
    query, key = torch.ones(1, 3, 1), torch.tensor([[[0.0], [LN3], [5.0]]])
    actual = log_attention(query, key, MASK[:1], heads=1).exp()
    assert actual[0, 0, 0].tolist() == pytest.approx([0.25, 0.75, 0.0])
    # Two heads of width 4 each: their scores are the sums over their own features, halved.
    query = torch.ones(1, 2, 8)
    key = torch.stack([torch.zeros(8), torch.cat([torch.full((4,), LN3 / 2), torch.zeros(4)])])[None]
    actual = log_attention(query, key, heads=2).exp()
    assert actual[0, :, 0].tolist() == [pytest.approx([0.25, 0.75]), pytest.approx([0.5, 0.5])]
    assert mean_over_heads(actual.log()).exp()[0, 0, 0].tolist() == pytest.approx([0.375, 0.625])


def test_attention_losses_by_hand() -> None:
    """Two tokens: the first attends alike in both networks, the second by halves in the student, 1/4 and 3/4 in the
    teacher.

    The third is padding.
    """
    student = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]).clamp_min(1e-30).log()[None, None]
    teacher = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.75, 0.0], [0.0, 1.0, 0.0]]).clamp_min(1e-30).log()[None, None]
    kl = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert attention_kl(student, teacher, MASK[:1]).tolist() == pytest.approx([kl / 2])
    assert attention_mse(student, teacher, MASK[:1]).tolist() == pytest.approx([2 * 0.25**2 / 2])


def test_cosine_by_hand() -> None:
    student = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]])
    teacher = torch.tensor([[5.0, 0.0], [4.0, 3.0], [0.0, -1.0]])
    assert cosine(student, teacher).tolist() == pytest.approx([0.0, 1 - 24 / 25, 2.0], abs=1e-6)


def test_relational_distance_by_hand() -> None:
    """On a line: the student's rows at 0, 1, 3 (distances 1, 2, 3 of mean 2), the teacher's at 0, 1, 2 (1, 1, 2 of
    4/3)."""
    student, teacher = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    # Relative distances 0-1, 1-2, 0-2: 1/2, 1, 3/2 against 3/4, 3/4, 3/2.
    first, second, third = 0.5 * 0.25**2, 0.5 * 0.25**2, 0.0
    expected = [(first + third) / 2, (first + second) / 2, (second + third) / 2]
    assert relational_distance(student, teacher).tolist() == pytest.approx(expected)
    assert relational_distance(7 * student, teacher).tolist() == pytest.approx(expected)
    assert relational_distance(student[:1], teacher[:1]).tolist() == [0.0]


def test_relational_angle_by_hand() -> None:
    """Right angle at the first row and 45 degrees at the others; the teacher's three are in a line, the first
    between."""
    student = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    teacher = torch.tensor([[0.0], [1.0], [-1.0]])
    # Cosines 0 and 1 / sqrt 2, against -1 and 1.
    expected = [0.5, *[0.5 * (1 - math.sqrt(0.5)) ** 2] * 2]
    assert relational_angle(student, teacher).tolist() == pytest.approx(expected)
    assert relational_angle(3 * student + 1, teacher).tolist() == pytest.approx(expected)
    assert relational_angle(student[:2], teacher[:2]).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("apart", [0.0, 1e-7, 1e-4])
def test_nearly_equal_rows_have_bounded_gradients(apart: float) -> None:
    """For example two texts that only the student truncates before they differ."""
    student, teacher = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(0))
    student[1] = student[0] + apart
    plain, close = teacher.clone().requires_grad_(), student.requires_grad_()
    for x in (plain, close):
        relational_angle(x, teacher.flip(0)).sum().backward()
    assert close.grad.norm() < 3 * plain.grad.norm()


def test_contrastive_by_hand() -> None:
    """Cosines of 1 and 0 to the own and the other row at temperature 1 / ln 3: odds of 3 to 1; a single row costs 0."""
    student, teacher = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 5.0]])
    assert contrastive(student, teacher, temperature=1 / LN3).tolist() == pytest.approx([math.log(4 / 3)] * 2)
    assert contrastive(student, teacher.flip(0), temperature=1 / LN3).tolist() == pytest.approx([math.log(4)] * 2)
    assert contrastive(student[:1], teacher[:1], temperature=0.1).tolist() == [0.0]


def through_attention(form: Callable[..., torch.Tensor], student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Take queries and keys from the two halves of the width."""
    one, other = (log_attention(x[..., :4], x[..., 4:], MASK, heads=2) for x in (student, teacher))
    return form(one, other, MASK)


@pytest.mark.parametrize(
    ("loss", "shape"),
    [
        (partial(squared_difference, mask_BT=MASK), (2, 3, 8)),
        (partial(through_attention, attention_kl), (2, 3, 8)),
        (partial(through_attention, attention_mse), (2, 3, 8)),
        (cosine, (4, 3)),
        (relational_distance, (4, 3)),
        (relational_angle, (4, 3)),
        (partial(contrastive, temperature=0.5), (4, 3)),
    ],
)
def test_gradients(loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher), student.requires_grad_())
    assert loss(student, teacher).shape == (shape[0],)


@pytest.mark.parametrize("loss", [cosine, relational_distance, relational_angle, partial(contrastive, temperature=0.1)])
def test_equal_rows_have_finite_gradients(loss: Callable[..., torch.Tensor]) -> None:
    """Two rows of the same text, and networks that agree, in half precision too."""
    student = torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.5, 1.0], [0.0, 0.0]], dtype=torch.bfloat16, requires_grad=True)
    losses = loss(student, student.detach().clone())
    losses.sum().backward()
    assert losses.dtype == torch.float32 and torch.isfinite(losses).all() and torch.isfinite(student.grad).all()
