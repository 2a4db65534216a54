"""The distillation loss by hand, and training with it, whatever the micro-batches."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.small_runs import CPU, furthest, small_trainer, trained_by_two, use_data, weights
from torch import nn
from transformers import TrainingArguments

from hf_finetune.data.inputs import Rows, columns_of, with_labels
from hf_finetune.distillation.config import DecoupledKD, HardLabel, MatchLogits, SoftTargets
from hf_finetune.distillation.loss import DistillationLoss, DistillationTargets
from hf_finetune.distillation.trainer import DistillationTrainer, Teaching
from hf_finetune.distillation.weight_schedules import Ramp
from hf_finetune.training.losses.config import BinaryCrossEntropy, CrossEntropy, SquaredError
from hf_finetune.training.losses.weighted import WeightedLoss
from hf_finetune.training.optim.sam import SAM, Sharpness
from hf_finetune.training.regularization.r_drop import RDrop
from hf_finetune.training.setup import TrainingSetup

LN2, LN3 = math.log(2), math.log(3)
# Probabilities: the student's 1/2, 1/2; the teacher's 1/4, 3/4.
STUDENT, TEACHER = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, LN3]])


def test_losses_against_teacher_and_labels_add_up() -> None:
    """Two rows: 0.5 of the soft targets, 3 of the hard label, and 2 of the cross-entropy times a weight of 0.25."""
    loss = DistillationLoss(
        WeightedLoss(weights_C=torch.tensor([1.0, 0.25])), 2.0, (SoftTargets(1.0, weight=0.5), HardLabel(weight=3.0))
    )
    soft = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    targets = DistillationTargets(torch.tensor([1, 1]), TEACHER.expand(2, 2))
    assert len(targets) == 2
    assert float(loss(STUDENT.expand(2, 2), targets)) == pytest.approx(2 * (0.5 * soft + 3 * LN2 + 2 * 0.25 * LN2))


def test_labels_without_weight_are_not_used() -> None:
    loss = DistillationLoss(WeightedLoss(), 0.0, (MatchLogits(weight=2.0),))
    assert float(loss(STUDENT, DistillationTargets(torch.tensor([-1]), TEACHER))) == pytest.approx(LN3**2)


def test_a_scheduled_weight_of_the_labels() -> None:
    """ln(3)^2 against the teacher; 0.9 ln 2 against the labels at the first step, 0.5 in the middle, 0.1 at the last."""
    loss = DistillationLoss(WeightedLoss(), Ramp(0.9, 0.1), (MatchLogits(weight=2.0),))
    actual = [
        float(loss(STUDENT, DistillationTargets(torch.tensor([1]), TEACHER, progress))) for progress in (0.0, 0.5, 1.0)
    ]
    assert actual == pytest.approx([LN3**2 + weight * LN2 for weight in (0.9, 0.5, 0.1)])


def test_a_head_with_weight_0_has_a_gradient() -> None:
    """Its gradient is 0: processes wait for the gradients of all weights."""
    loss = DistillationLoss(WeightedLoss(), Ramp(1.0, 0.0), (HardLabel(),))
    own, distilled = (torch.zeros(1, 2, requires_grad=True) for _ in range(2))
    loss(torch.stack([own, distilled], 1), DistillationTargets(torch.tensor([0]), TEACHER, progress=1.0)).backward()
    assert own.grad.tolist() == [[0.0, 0.0]] != distilled.grad.tolist()


def test_two_heads_have_their_own_losses() -> None:
    """The first head, 1/2, 1/2, learns the label; the second, 3/4, 1/4, the teacher's class 1."""
    loss = DistillationLoss(WeightedLoss(), 2.0, (HardLabel(weight=0.5),))
    logits_BHC = torch.tensor([[[0.0, 0.0], [LN3, 0.0]]], requires_grad=True)
    total = loss(logits_BHC, DistillationTargets(torch.tensor([0]), TEACHER))
    assert float(total.detach()) == pytest.approx(2 * LN2 + 0.5 * math.log(4))
    total.backward()
    assert torch.allclose(logits_BHC.grad, torch.tensor([[[-1.0, 1.0], [0.375, -0.375]]]))


def test_tags_and_numbers_of_teachers_and_labels() -> None:
    """The second row has no label. The teacher's numbers are in the user's unit: mean 10, deviation 2."""
    tags = DistillationLoss(
        WeightedLoss(BinaryCrossEntropy()), 3.0, (SoftTargets(1.0, weight=0.5),), activation="sigmoid"
    )
    labels = torch.tensor([[1.0], [-1.0]])
    soft = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    targets = DistillationTargets(labels, torch.tensor([[LN3], [LN3]]))
    assert float(tags(torch.zeros(2, 1), targets)) == pytest.approx(2 * 0.5 * soft + 3 * LN2)
    numbers = DistillationLoss(
        WeightedLoss(lambda x, y: SquaredError()(x, (y - 10) / 2)),
        3.0,
        (SoftTargets(weight=0.5),),
        activation="identity",
        scaled=lambda x: (x - 10) / 2,
    )
    targets = DistillationTargets(torch.tensor([[12.0], [math.nan]]), torch.tensor([[14.0], [10.0]]))
    assert float(numbers(torch.zeros(2, 1), targets)) == pytest.approx(0.5 * 4 + 3 * 1)


def test_a_row_without_a_label() -> None:
    """It has only the losses against the teacher, whose prediction replaces the label; its neighbor has both."""
    kinds = (MatchLogits(weight=2.0), DecoupledKD(temperature=1.0, alpha=1.0, weight=1.0))
    loss = DistillationLoss(WeightedLoss(weights_C=torch.tensor([1.0, 0.25])), 2.0, kinds)
    target = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    alone = float(loss(STUDENT, DistillationTargets(torch.tensor([-1]), TEACHER)))
    assert alone == pytest.approx(LN3**2 + target)
    both = DistillationTargets(torch.tensor([-1, 1]), TEACHER.expand(2, 2))
    assert float(loss(STUDENT.expand(2, 2), both)) == pytest.approx(2 * alone + 2 * 0.25 * LN2)


LOSS = DistillationLoss(
    WeightedLoss(weights_C=torch.tensor([1.6, 0.4])),
    0.5,
    (SoftTargets(2.0), HardLabel(0.1), MatchLogits(0.2), DecoupledKD(weight=0.1)),
)


def student(
    model: nn.Module, args: TrainingArguments, setup: TrainingSetup, loss: DistillationLoss = LOSS
) -> DistillationTrainer:
    """Build a student of random logits."""
    teacher_NC = np.random.default_rng(0).normal(size=(len(setup.data.train), 2)).astype(np.float32)
    return DistillationTrainer(model, args, replace(setup, loss=loss), Teaching(teacher_NC))


def with_everything(model: nn.Module, args: TrainingArguments, setup: TrainingSetup) -> DistillationTrainer:
    """Build a student with R-Drop, balanced sampling and SAM."""
    hooks = (RDrop(1.0), SAM(Sharpness(0.05, False), CPU))
    balanced = replace(setup.batching, sampling="balanced")
    return student(model, args, replace(setup, hooks=hooks, batching=balanced))


def losses(trainer: DistillationTrainer) -> list[float]:
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def test_loss_of_a_step_is_the_mean_over_its_rows(tmp_path: Path) -> None:
    """20 rows in steps of 7 and 6, in unequal micro-batches, some without a label: each loss by hand from the logits of
    its rows. The weight of the labels is 3 at the first step, 2 at the second, 1 at the last."""
    loss = DistillationLoss(WeightedLoss(), Ramp(3.0, 1.0), (MatchLogits(2.0),))
    fields = {"rows": 20, "micro_batch": 3, "accumulation": 3, "learning_rate": 1e-12}
    trainer = small_trainer(tmp_path, "bert", trainer=partial(student, loss=loss), **fields)
    labels = [label if i % 3 else -1 for i, label in enumerate(trainer.train_dataset["label"][:])]
    use_data(trainer, train=trainer.train_dataset.remove_columns("label").add_column("label", labels))
    trainer.train()
    rows = Rows(trainer.train_dataset, columns_of(trainer.inputs, labels=True))
    steps = trainer.get_train_dataloader().batch_sampler.step_rows()
    for step, logged, weight in zip(steps, losses(trainer), (3, 2, 1), strict=True):
        batch = with_labels(trainer.inputs.collate, rows.__getitems__(step))
        labels = batch.pop("labels")
        with torch.no_grad():
            logits = trainer.model.eval()(**batch).logits
        squares = (logits - torch.from_numpy(trainer.teaching.logits[step])).square().mean(-1)
        known = labels >= 0
        expected = (weight * CrossEntropy()(logits[known], labels[known]).sum() + 2 * squares.sum()) / len(step)
        assert logged == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_accumulation_changes_nothing(tmp_path: Path, family: str) -> None:
    """Five steps of 8 rows, in one batch or in four: the same losses and weights, but not those without a teacher."""
    plain = small_trainer(tmp_path, family)
    plain.train()
    whole = small_trainer(tmp_path, family, trainer=with_everything)
    whole.train()
    parts = small_trainer(tmp_path, family, trainer=with_everything, micro_batch=2, accumulation=4)
    parts.train()
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-4)
    assert furthest(weights(whole), weights(parts)) < 1e-3 < furthest(weights(whole), weights(plain))
    assert whole.work.rows == parts.work.rows == 40


def test_a_teacher_without_weight_changes_nothing(tmp_path: Path) -> None:
    alone = DistillationLoss(WeightedLoss(), 1.0, (SoftTargets(weight=0.0),))
    plain = small_trainer(tmp_path, "bert")
    with_teacher = small_trainer(tmp_path, "bert", trainer=partial(student, loss=alone))
    plain.train()
    with_teacher.train()
    assert furthest(weights(plain), weights(with_teacher)) == 0.0


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    alone = small_trainer(tmp_path, "bert", trainer=with_everything)
    alone.train()
    one, other = trained_by_two(tmp_path, with_everything)
    assert furthest(one, other) == 0.0
    assert furthest(one, weights(alone)) < 1e-3
