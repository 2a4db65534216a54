"""Mixed rows in the trainer: exact whatever the optimizer's tricks, and the same in two processes as in one."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from helpers.ranks import run_in_two_processes
from helpers.small_runs import CPU, furthest, small_trainer, trainer_with, weights
from torch.nn import functional as F

from hf_finetune.augmentation.mixing import CutMix, Mixing, Mixup, ResizeMix
from hf_finetune.training.hooks import Hook
from hf_finetune.training.input_mixing import InputMixing
from hf_finetune.training.optim.sam import SAM, Sharpness
from hf_finetune.training.optim.update_rule import UpdateRule
from hf_finetune.training.trainer import ClassifierTrainer

TEXT, PICTURES = (Mixup(alpha=1.0),), (Mixup(alpha=1.0), CutMix(), ResizeMix())
UNTIL_THE_END = {"saving": False}


def mixing(*operations: Mixing, hooks: Sequence[Hook] = (), **parts):
    """A kind of trainer."""
    return trainer_with(hooks=[InputMixing(operations, 0), *hooks], **parts)


def losses(trainer: ClassifierTrainer) -> list[float]:
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


@pytest.mark.parametrize(("family", "operation"), [("bert", Mixup(1.0)), ("vit", Mixup(1.0)), ("vit", CutMix())])
def test_loss_of_a_step_is_the_mean_over_its_rows(tmp_path: Path, family: str, operation: Mixing) -> None:
    """13 rows in steps of 7 and 6, cut into unequal thirds: of each row the mixture of its losses under two classes."""
    trainer = small_trainer(
        tmp_path,
        family,
        rows=13,
        rows_per_step=7,
        micro_batch=3,
        accumulation=3,
        learning_rate=1e-12,
        trainer=mixing(operation),
    )
    trainer.train()
    micro_batches = list(trainer.get_train_dataloader())
    assert sorted(len(b["labels"]) for b in micro_batches) == [2, 2, 2, 2, 2, 3] and "shares" in micro_batches[0]
    model, expected = trainer.model.eval(), []
    for step in (micro_batches[:3], micro_batches[3:]):
        total, rows = 0.0, sum(len(batch["labels"]) for batch in step)
        for batch in step:
            labels, partners, shares = (batch.pop(n) for n in ("labels", "partners", "shares"))
            if family == "bert":
                words = model.get_input_embeddings()(batch.pop("input_ids"))
                own = shares[:, None, None]
                batch["inputs_embeds"] = own * words + (1 - own) * words[partners]
            with torch.no_grad():
                logits = model(**batch).logits
            under = [F.cross_entropy(logits, y, reduction="none") for y in (labels, labels[partners])]
            total += float((shares * under[0] + (1 - shares) * under[1]).sum())
        expected.append(total / rows)
    assert losses(trainer) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("family", ["bert", "vit"])
@pytest.mark.parametrize("off", [Mixup(alpha=0.0), Mixup(p=0.0)])
def test_off_is_a_plain_run_to_the_bit(tmp_path: Path, family: str, off: Mixing) -> None:
    result = []
    for kind in (ClassifierTrainer, mixing(off), mixing(Mixup(1.0))):
        trainer = small_trainer(tmp_path, family, dropout=None, trainer=kind)
        trainer.train()
        result.append(weights(trainer))
    assert furthest(result[0], result[1]) == 0.0 and furthest(result[0], result[2]) > 1e-3


def test_sparse_word_embeddings_train_like_dense_ones(tmp_path: Path) -> None:
    """Mixed words have gradients on the rows of both texts, and on no others."""
    result = []
    for sparse in (False, True):
        trainer = small_trainer(
            tmp_path,
            "bert",
            max_grad_norm=0.5,
            trainer=mixing(*TEXT, update=UpdateRule(sparse_embeddings=sparse)),
            **UNTIL_THE_END,
        )
        table = trainer.model.get_input_embeddings().weight
        before = table.detach().clone()
        trainer.train()
        occurring = {i for ids in trainer.train_dataset["input_ids"] for i in ids}
        moved = set((table.detach() != before).any(-1).nonzero()[:, 0].tolist())
        # All but the padding, which stands in mixtures of texts of unequal length, too.
        assert occurring <= moved <= occurring | {trainer.inputs.tokenizer.pad_token_id}
        result.append(weights(trainer))
    assert furthest(*result) < 1e-3


def test_second_pass_sees_the_same_mixtures(tmp_path: Path) -> None:
    """SAM without a climb takes the same step over again."""
    result = []
    for hooks in ([], [SAM(Sharpness(1e-30), CPU)]):
        trainer = small_trainer(
            tmp_path,
            "bert",
            micro_batch=4,
            accumulation=2,
            dropout=None,
            trainer=mixing(*TEXT, hooks=hooks),
            **UNTIL_THE_END,
        )
        trainer.train()
        result.append(weights(trainer))
    assert furthest(*result) == 0.0


SCRIPT = """
import sys
from pathlib import Path
import torch
from helpers.small_runs import small_trainer, trainer_with, weights
from hf_finetune.augmentation.mixing import CutMix, Mixup, ResizeMix
from hf_finetune.training.input_mixing import InputMixing
folder = Path(sys.argv[1])
for family, mix in (("bert", (Mixup(1.0),)), ("vit", (Mixup(1.0), CutMix(), ResizeMix()))):
    trainer = small_trainer(folder, family, micro_batch=4, trainer=trainer_with(hooks=[InputMixing(mix, 0)]))
    trainer.train()
    assert trainer.args.world_size == 2
    if trainer.args.process_index == 0:
        losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
        torch.save({"weights": weights(trainer), "losses": losses}, folder / f"{family}.pt")
"""


def test_two_processes_mix_what_one_mixes(tmp_path: Path) -> None:
    """Steps of 8 rows as two micro-batches, one after the other or side by side: each mixes its own rows alike."""
    alone = {}
    for family, mix in (("bert", TEXT), ("vit", PICTURES)):
        alone[family] = small_trainer(tmp_path, family, micro_batch=4, accumulation=2, trainer=mixing(*mix))
        alone[family].train()
    run_in_two_processes(SCRIPT, tmp_path, folder=tmp_path)
    for family, trainer in alone.items():
        result = torch.load(tmp_path / f"{family}.pt", weights_only=True)
        assert result["losses"] == pytest.approx(losses(trainer), rel=1e-4)
        assert furthest(weights(trainer), result["weights"]) < 1e-3
