"""Losses, R-Drop, mixout, noise, drawn and changed rows in the trainer: exact whatever the micro-batches and the
processes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.small_runs import furthest, small_trainer, trained_by_two, trainer_with, use_data, weights
from torch import nn
from transformers import TrainingArguments
from transformers.utils import ModelOutput

from hf_finetune.augmentation.augmenter import Augmenter, population_of
from hf_finetune.augmentation.compose import Phases
from hf_finetune.augmentation.image.geometry import Flip, Translate
from hf_finetune.augmentation.text.characters import KeyboardTypos
from hf_finetune.augmentation.text.words import DeleteWords
from hf_finetune.data.inputs import Rows, columns_of, with_labels
from hf_finetune.models.kernels.shortcuts import Shortcuts
from hf_finetune.training.losses.config import Focal
from hf_finetune.training.losses.divergence import symmetric_divergence
from hf_finetune.training.losses.weighted import CROSS_ENTROPY, WeightedLoss, mean_over_step
from hf_finetune.training.regularization.elastic_net import ElasticNetSteps, penalized
from hf_finetune.training.regularization.gradient_noise import NoisyGradients
from hf_finetune.training.regularization.mixout import Mixout, pretrained_layers
from hf_finetune.training.regularization.r_drop import RDrop
from hf_finetune.training.setup import TrainingSetup
from hf_finetune.training.trainer import ClassifierTrainer

WEIGHTS, SHIFT = torch.tensor([1.6, 0.4]), torch.tensor([-0.2, -1.5])
LOSS = WeightedLoss(Focal(1.5), weights_C=WEIGHTS, shift_C=SHIFT)


def with_everything(model: nn.Module, args: TrainingArguments, setup: TrainingSetup) -> ClassifierTrainer:
    """All that could depend on how a step is cut, at once."""
    rows = setup.data.train
    changes = (KeyboardTypos(0.5), DeleteWords()) if "text" in rows.column_names else (Translate(), Flip())
    make = trainer_with(
        data={"augmentation": Augmenter((Phases(changes),), 0, population_of(rows, ("bad", "good")))},
        batching={"sampling": "balanced"},
        loss=LOSS,
        hooks=[
            RDrop(1.0),
            Mixout(pretrained_layers(model), p=0.3, seed=0),
            NoisyGradients(eta=1e-6, gamma=0.55, seed=0),
            ElasticNetSteps(penalized(model, ()), l1=10.0, l2=1.0),
        ],
    )
    return make(model, args, setup)


def losses(trainer: ClassifierTrainer) -> list[float]:
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_accumulation_changes_nothing(tmp_path: Path, family: str) -> None:
    """Five steps of 8 rows, as one batch or as four: same losses and weights, and not those of a plain run."""
    plain = small_trainer(tmp_path, family)
    plain.train()
    whole = small_trainer(tmp_path, family, trainer=with_everything)
    whole.train()
    parts = small_trainer(tmp_path, family, trainer=with_everything, micro_batch=2, accumulation=4)
    parts.train()
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-4)
    assert furthest(weights(whole), weights(parts)) < 1e-3 < furthest(weights(whole), weights(plain))
    assert whole.work.rows == parts.work.rows == 40


def test_loss_of_a_step_is_the_weighted_mean_over_its_rows(tmp_path: Path) -> None:
    """13 rows in steps of 7 and 6, cut into unequal thirds: each loss by hand from the logits of its rows."""
    trainer = small_trainer(
        tmp_path, "bert", trainer=trainer_with(loss=LOSS), rows=13, micro_batch=3, accumulation=3, learning_rate=1e-12
    )
    trainer.train()
    rows = Rows(trainer.train_dataset, columns_of(trainer.inputs, labels=True))
    steps = trainer.get_train_dataloader().batch_sampler.step_rows()
    for step, logged in zip(steps, losses(trainer), strict=True):
        batch = with_labels(trainer.inputs.collate, rows.__getitems__(step))
        labels = batch.pop("labels")
        with torch.no_grad():
            result = Focal(1.5)(trainer.model.eval()(**batch).logits + SHIFT, labels)
        assert logged == pytest.approx(float((result * WEIGHTS[labels]).sum() / len(step)), abs=1e-4)


def test_r_drop_by_hand() -> None:
    """Two rows, each twice, in a step of four: half of both losses, and alpha times the divergence, over four."""
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.5, 0.5], [1.0, 1.0]])
    labels = torch.tensor([1, 0])
    result = mean_over_step(ModelOutput(logits=logits), labels, 4, loss=RDrop(3.0).on_loss(CROSS_ENTROPY))
    both = CROSS_ENTROPY(logits, torch.tensor([1, 0, 1, 0])) / 2
    assert float(result) == pytest.approx(float(both + 3 * symmetric_divergence(logits[:2], logits[2:], "softmax")) / 4)


def doubled(alpha: float, *, fast_dropout: bool = True):
    return trainer_with(hooks=[RDrop(alpha)], shortcuts=Shortcuts(fast_dropout=fast_dropout))


def test_r_drop_without_dropout_changes_nothing(tmp_path: Path) -> None:
    """Both answers are one."""
    plain, alone = (small_trainer(tmp_path, "bert", trainer=made) for made in (ClassifierTrainer, doubled(100.0)))
    plain.train()
    alone.train()
    assert losses(alone) == pytest.approx(losses(plain), rel=1e-4)
    assert alone.work.rows == 40


@pytest.mark.parametrize("fast", [True, False])
def test_r_drop_passes_have_their_own_masks(tmp_path: Path, fast: bool) -> None:
    """The same random numbers, so that the loss is larger by the divergence alone."""
    made = [doubled(alpha, fast_dropout=fast) for alpha in (1e-9, 100.0)]
    little, much = (small_trainer(tmp_path, "bert", trainer=m, max_steps=1, dropout=0.3) for m in made)
    little.train()
    much.train()
    assert losses(much)[0] > losses(little)[0] + 0.1


def test_drawn_rows_are_what_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 rows of one class and 10 of the other: in two epochs 30 of each are seen."""
    seen = []
    trainer = small_trainer(
        tmp_path, "bert", trainer=trainer_with(batching={"sampling": "balanced"}), num_train_epochs=2.0
    )
    use_data(trainer, train=trainer.train_dataset.select([i for i in range(40) if i % 4]))
    step = ClassifierTrainer.training_step

    def remember(self, model, inputs, items=None):
        seen.extend(inputs["labels"].tolist())
        return step(self, model, inputs, items)

    monkeypatch.setattr(ClassifierTrainer, "training_step", remember)
    trainer.train()
    assert np.bincount(trainer.train_dataset["label"]).tolist() == [10, 20]
    assert np.bincount(seen).tolist() == [30, 30]


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_a_row_that_is_drawn_again_in_an_epoch_is_not_the_same_view_again(tmp_path: Path, family: str) -> None:
    operation = KeyboardTypos(1.0) if family == "bert" else Translate(0.5, 0.5)

    def lone(model: nn.Module, args: TrainingArguments, setup: TrainingSetup) -> ClassifierTrainer:
        """One row of the first class, and seven of the other."""
        rows = setup.data.train.select([0, *range(1, 15, 2)])
        changes = Augmenter((operation,), 0, population_of(rows, ("bad", "good")))
        data = {"train": rows, "augmentation": changes}
        return trainer_with(data=data, batching={"sampling": "balanced"})(model, args, setup)

    loader = small_trainer(tmp_path, family, trainer=lone).get_train_dataloader()
    (batch,) = loader
    x, labels = batch["input_ids" if family == "bert" else "pixel_values"], batch["labels"]
    of_the_lone_row = x[labels == 0].flatten(1)
    assert len(of_the_lone_row) == 4 and len(of_the_lone_row.unique(dim=0)) == 4


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    alone = small_trainer(tmp_path, "bert", trainer=with_everything)
    alone.train()
    one, other = trained_by_two(tmp_path, with_everything)
    assert furthest(one, other) == 0.0
    assert furthest(one, weights(alone)) < 1e-3
    assert float((one["classifier.weight"] == 0).float().mean()) > 0.1
