"""Soft labels in the losses, and mixed texts in every family: by hand, and as the library has them."""

import math
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from helpers.small_runs import small_trainer, text_rows
from helpers.tiny import TEXT_FAMILIES
from torch.nn import functional as F
from transformers.utils import ModelOutput

from hf_finetune.augmentation.mixing import Mixup
from hf_finetune.data.inputs import with_labels
from hf_finetune.training.input_mixing import mixed_inputs, soft_labels, why_not_by_embeddings
from hf_finetune.training.losses.config import CrossEntropy, Focal, Loss
from hf_finetune.training.losses.divergence import symmetric_divergence
from hf_finetune.training.losses.weighted import WeightedLoss, mean_over_step
from hf_finetune.training.regularization.r_drop import RDrop
from hf_finetune.training.trainer import ClassifierTrainer

# Logits (0, ln 3): probabilities 1/4 and 3/4.
LOGITS = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
SOFT = torch.tensor([[0.4, 0.6], [1.0, 0.0]])
LOSSES = [*(kind() for kind in get_args(Loss) if kind.task == "single-label"), Focal(0.5)]
WEIGHTS, SHIFT = torch.tensor([1.6, 0.4, 1.0]), torch.tensor([-0.2, -1.5, -0.7])


def random_batch(rows: int = 6, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, hard labels and soft ones."""
    rng = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(rows, classes, generator=rng)
    soft = torch.softmax(2 * torch.randn(rows, classes, generator=rng), -1)
    return logits, torch.randint(classes, (rows,), generator=rng), soft


def test_soft_labels_by_hand() -> None:
    """Class 0 with a partner of class 2, class 1 with a partner of its own class, class 2 with itself."""
    result = soft_labels(
        torch.tensor([0, 1, 2, 1]), torch.tensor([2, 3, 2, 0]), torch.tensor([0.75, 0.75, 0.5, 0.0]), 3
    )
    assert result.tolist() == [[0.75, 0, 0.25], [0, 1, 0], [0, 0, 1], [1, 0, 0]]


def test_soft_tags_and_numbers_by_hand() -> None:
    """A quarter of the partner's tags, or of its number."""
    partners, shares = torch.tensor([1, 0]), torch.tensor([0.75, 0.75])
    tags = soft_labels(torch.tensor([[1.0, 1.0], [0.0, 1.0]]), partners, shares, 2)
    assert tags.tolist() == [[0.75, 1.0], [0.25, 1.0]]
    assert soft_labels(torch.tensor([[8.0], [4.0]]), partners, shares, 1).tolist() == [[7.0], [5.0]]


def test_cross_entropy_by_hand() -> None:
    expected = -0.4 * math.log(0.25) - 0.6 * math.log(0.75)
    assert CrossEntropy()(LOGITS, SOFT).tolist() == pytest.approx([expected, -math.log(0.25)])


def test_smoothing_by_hand() -> None:
    """Smoothing 0.2 over two classes makes 0.42 and 0.58 of 0.4 and 0.6."""
    expected = -0.42 * math.log(0.25) - 0.58 * math.log(0.75)
    assert float(CrossEntropy()(LOGITS, SOFT, 0.2)[0]) == pytest.approx(expected)


def test_focal_by_hand() -> None:
    expected = -0.4 * 0.75**2 * math.log(0.25) - 0.6 * 0.25**2 * math.log(0.75)
    assert float(Focal(2.0)(LOGITS, SOFT)[0]) == pytest.approx(expected)


def test_weights_by_hand() -> None:
    """The mixture of the classes' losses, each times its own weight."""
    loss = WeightedLoss(weights_C=torch.tensor([3.0, 0.5]))
    expected = -0.4 * 3 * math.log(0.25) - 0.6 * 0.5 * math.log(0.75)
    assert float(loss(LOGITS[:1], SOFT[:1])) == pytest.approx(expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_as_the_library_has_it(smoothing: float) -> None:
    logits, _, soft = random_batch()
    expected = F.cross_entropy(logits, soft, reduction="none", label_smoothing=smoothing)
    assert torch.allclose(CrossEntropy()(logits, soft, smoothing), expected, atol=1e-6)
    if smoothing == 0:
        expected = F.cross_entropy(logits, soft, reduction="sum", weight=WEIGHTS)
        assert float(WeightedLoss(weights_C=WEIGHTS)(logits, soft)) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("rows", LOSSES)
def test_every_loss_is_the_mixture_of_the_hard_ones(rows: CrossEntropy | Focal, smoothing: float) -> None:
    """With weights and adjusted logits: the sum over classes of their share times the loss under that class alone."""
    logits, _, soft = random_batch()
    loss = WeightedLoss(lambda x, y: rows(x, y, label_smoothing=smoothing), weights_C=WEIGHTS, shift_C=SHIFT)
    expected = sum(
        float(soft[i, c] * loss(logits[i : i + 1], torch.tensor([c]))) for i in range(len(soft)) for c in range(3)
    )
    assert float(loss(logits, soft)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("rows", LOSSES)
def test_hard_labels_as_soft_ones(rows: CrossEntropy | Focal, smoothing: float) -> None:
    """The same value and the same gradient, with R-Drop, too."""
    logits, hard, _ = random_batch()
    loss = WeightedLoss(lambda x, y: rows(x, y, label_smoothing=smoothing), weights_C=WEIGHTS, shift_C=SHIFT)
    values, gradients = [], []
    for labels in (hard[:3], F.one_hot(hard[:3], 3).float()):
        options = logits.clone().requires_grad_()
        value = mean_over_step(ModelOutput(logits=options), labels, 3, loss=RDrop(1.0).on_loss(loss))
        value.backward()
        values.append(value.item())
        gradients.append(options.grad)
    assert values[1] == pytest.approx(values[0], abs=1e-6)
    assert torch.allclose(gradients[1], gradients[0], atol=1e-6) and gradients[0].abs().max() > 0.1


def test_r_drop_by_hand() -> None:
    """One mixed row, sent through twice, in a step of four."""
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])
    outputs = ModelOutput(logits=logits)
    result = mean_over_step(outputs, SOFT[:1], 4, loss=RDrop(2.0).on_loss(WeightedLoss()))
    once = -0.4 * math.log(0.25) - 0.6 * math.log(0.75)
    expected = (once + math.log(2)) / 2 + 2 * float(symmetric_divergence(logits[:1], logits[1:], "softmax"))
    assert float(result) == pytest.approx(expected / 4)


# Mixed texts in a model


def text_batch(trainer: ClassifierTrainer, rows: int = 4) -> dict[str, torch.Tensor]:
    """Texts of several lengths with labels."""
    encoded = trainer.inputs.encode(text_rows(rows, seed=3))
    batch = with_labels(trainer.inputs.collate, encoded[:])
    assert not batch["attention_mask"].all()
    return batch


def logits_of(trainer: ClassifierTrainer, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return trainer.model.eval()(**{n: x for n, x in batch.items() if n != "labels"}).logits


def with_share(batch: dict[str, torch.Tensor], share: float) -> dict[str, torch.Tensor]:
    """The batch mixed with partners in reverse order, each row keeping this share."""
    partners = torch.arange(len(batch["labels"])).flip(0).numpy()
    return Mixup().mix(batch, share, partners, np.random.default_rng(0))


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_a_whole_share_is_no_mixing(tmp_path: Path, family: str) -> None:
    """Through word embeddings in place of ids, and for every family: positions are counted as from the ids. A share of
    0 is the partner alone; half of both is neither."""
    trainer = small_trainer(tmp_path, family)
    batch = text_batch(trainer)
    assert why_not_by_embeddings(trainer.model, {n: x for n, x in batch.items() if n != "labels"}) is None
    plain = logits_of(trainer, batch)
    of_share = {s: mixed_inputs(trainer.model, with_share(batch, s)) for s in (0.0, 0.5, 1.0)}
    result = {s: logits_of(trainer, one) for s, one in of_share.items()}
    assert "input_ids" not in of_share[0.5] and "input_ids" in batch
    assert torch.allclose(result[1.0], plain, atol=1e-5)
    assert torch.allclose(result[0.0], plain.flip(0), atol=1e-5)
    assert torch.equal(of_share[1.0]["labels"], F.one_hot(batch["labels"], 2).float())
    assert (result[0.5] - plain).abs().max() > 1e-3
    # Half and half is the same mixture for both, whatever their lengths.
    assert torch.allclose(result[0.5], result[0.5].flip(0), atol=1e-5)


def test_embeddings_by_hand(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, "bert")
    batch = text_batch(trainer)
    result = mixed_inputs(trainer.model, with_share(batch, 0.25))
    table = trainer.model.get_input_embeddings().weight
    expected = 0.25 * table[batch["input_ids"][0, 1]] + 0.75 * table[batch["input_ids"][3, 1]]
    assert torch.allclose(result["inputs_embeds"][0, 1], expected)
    own, partner = batch["attention_mask"][0], batch["attention_mask"][3]
    assert own.sum() != partner.sum()
    assert result["attention_mask"][0].tolist() == torch.maximum(own, partner).tolist()


def test_model_that_counts_positions_from_ids_says_so(tmp_path: Path) -> None:
    """RoBERTa's positions start behind the padding on the left only where it sees the ids."""
    trainer = small_trainer(tmp_path, "roberta")
    trainer.inputs.tokenizer.padding_side = "left"
    batch = {n: x for n, x in text_batch(trainer).items() if n != "labels"}
    assert "without any mixing" in (why_not_by_embeddings(trainer.model, batch) or "")
    more = {**batch, "entity_ids": batch["input_ids"]}
    assert why_not_by_embeddings(trainer.model, more) == "its tokenizer also gives it entity_ids"
