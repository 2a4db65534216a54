"""The trainers of pretraining on tiny models: the loss is the library's, and a step's whatever its micro-batches."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import CPU, furthest, image_rows, text_rows, weights
from tiny import IMAGE_FAMILIES, TEXT_FAMILIES, tiny_image_checkpoint, tiny_text_checkpoint

from hf_finetune.data.inputs import ImageInputs, Inputs, TextInputs
from hf_finetune.data.masking import Masking, with_words
from hf_finetune.models.pretraining import load_pretrainable
from hf_finetune.models.processors import load_image_processor, load_tokenizer
from hf_finetune.models.safety import inspect_checkpoint
from hf_finetune.training.arguments import training_arguments
from hf_finetune.training.optimizer_choices import SGD
from hf_finetune.training.pretraining import (
    HELD_OUT,
    ContrastiveTrainer,
    MaskedImageTrainer,
    MaskedLanguageTrainer,
    PretrainingTrainer,
)
from hf_finetune.training.pretraining_choices import SimCSE, SimMIM


def small(folder: Path, family: str, kind: type[PretrainingTrainer], *, accumulation: int = 1, **fields: Any) -> Any:
    """24 rows to train on, in steps of 8, and 8 held out; without dropout unless SimCSE needs it."""
    rows = (image_rows if family in IMAGE_FAMILIES else text_rows)(32)
    inputs: Inputs
    if family in IMAGE_FAMILIES:
        local = inspect_checkpoint(tiny_image_checkpoint(folder / family, family))
        inputs, guess = ImageInputs(load_image_processor(str(local.folder))), "patches"
        fields |= {"objective": SimMIM(block=8), "picture": (3, 32, 32)}
    else:
        local = inspect_checkpoint(tiny_text_checkpoint(folder / family, family))
        inputs = TextInputs(load_tokenizer(str(local.folder), max_length=32, sample=[]), 32)
        rows = with_words(inputs.encode(rows), inputs, whole_word=True)
        guess = "words" if kind is MaskedLanguageTrainer else "nothing"
        masking = Masking.of(inputs.tokenizer, share=0.3, span=1, seed=0)
        fields |= {"masking": masking} if guess == "words" else {"objective": SimCSE()}
    given = {"learning_rate": 1e-3, "num_train_epochs": 1.0, "seed": 0, "max_grad_norm": 0.0, "weight_decay": 0.0}
    given |= {"lr_scheduler_type": "constant", "logging_steps": 1, "per_device_train_batch_size": 8 // accumulation}
    arguments = training_arguments(
        folder / "checkpoints",
        metric=HELD_OUT,
        mixed_precision="no",
        device=CPU,
        extra={},
        gradient_accumulation_steps=accumulation,
        **given,
    )
    model = load_pretrainable(local, guess, dropout=0.1 if guess == "nothing" else 0.0)
    options = {"train_rows": rows.select(range(24)), "validation_rows": rows.select(range(24, 32)), "inputs": inputs}
    return kind(model, arguments, rows_per_step=8, **options, **fields)


def batch_of(trainer: PretrainingTrainer) -> dict[str, torch.Tensor]:
    return trainer._training_collate()(trainer._training_rows().__getitems__(range(8)))


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_words_cost_what_they_cost_in_the_library(tmp_path: Path, family: str) -> None:
    """Though the head is computed for the tokens alone that are asked for; the hook leaves every other pass as it is."""
    trainer = small(tmp_path, family, MaskedLanguageTrainer)
    model, batch = trainer.model.eval(), batch_of(trainer)
    asked = int((batch["labels"] != -100).sum())
    with torch.no_grad():
        ours, whole = trainer._summed(model, batch), model(**batch)
    assert ours.item() / asked == pytest.approx(whole.loss.item(), rel=1e-5) and 8 <= asked < 80
    assert whole.logits.shape[:2] == batch["input_ids"].shape


def test_patches_cost_what_they_cost_in_the_library(tmp_path: Path) -> None:
    """Every picture has as many left out, so the mean over pictures is the library's over pixels."""
    for family in ("vit", "swin"):
        trainer = small(tmp_path / family, family, MaskedImageTrainer)
        model, batch = trainer.model.eval(), batch_of(trainer)
        inputs = {name: x for name, x in batch.items() if name != "labels"}
        with torch.no_grad():
            ours, theirs = trainer._summed(model, batch), model(**inputs).loss
        assert ours.item() / 8 == pytest.approx(theirs.item(), rel=1e-4)
        # .6 of 4 x 4 squares of 8 pixels.
        assert batch["bool_masked_pos"].float().mean().item() == 10 / 16


def test_views_differ_by_dropout_alone(tmp_path: Path) -> None:
    """Without it a row's two vectors are one; a loss of the same vectors by hand says so. Padding has no part in a mean."""
    trainer = small(tmp_path, "bert", ContrastiveTrainer)
    batch = batch_of(trainer)
    with torch.no_grad():
        still, moving = trainer._summed(trainer.model.eval(), batch), trainer._summed(trainer.model.train(), batch)
        inputs = {name: x for name, x in batch.items() if name != "labels"}
        vectors = torch.nn.functional.normalize(trainer.model.eval()(**inputs).last_hidden_state[:, 0], dim=-1)
        cosines = vectors @ vectors.T / 0.05
        by_hand = (cosines.logsumexp(-1) - cosines.diagonal()).sum()
        trainer.objective = dataclasses.replace(trainer.objective, pooling="mean")
        mean = trainer._summed(trainer.model, batch)
        # One more column of padding.
        wider = {n: torch.nn.functional.pad(x, (0, 1)) if x.dim() == 2 else x for n, x in batch.items()}
        assert trainer._summed(trainer.model, wider).item() == pytest.approx(mean.item(), rel=1e-4)
    assert still.item() == pytest.approx(by_hand.item(), rel=1e-4) and moving.item() != pytest.approx(still.item())


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_micro_batches_change_nothing(tmp_path: Path, family: str) -> None:
    """A step's loss is the mean over its words, not the mean over its parts' means."""
    kind = MaskedImageTrainer if family == "vit" else MaskedLanguageTrainer
    # Adam would make rounding errors as large as any other gradient.
    whole = small(tmp_path / "a", family, kind, optimizer=SGD(momentum=0.0))
    parts = small(tmp_path / "b", family, kind, optimizer=SGD(momentum=0.0), accumulation=4)
    before = weights(whole)
    for trainer in (whole, parts):
        trainer.train()
    assert furthest(weights(whole), before) > 1e-4
    assert furthest(weights(whole), weights(parts)) < 1e-6
    losses = [[line["loss"] for line in t.state.log_history if "loss" in line] for t in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and len(losses[0]) == 3


def test_held_out_rows_have_masks_of_their_own_that_stay(tmp_path: Path) -> None:
    """Scored twice they cost the same, as the library's mean over their words; training's random numbers are left alone."""
    trainer = small(tmp_path, "bert", MaskedLanguageTrainer)
    state = torch.get_rng_state()
    scores = [trainer._metrics(trainer.eval_dataset, "eval") for _ in range(2)]
    assert scores[0] == scores[1] and torch.equal(state, torch.get_rng_state())
    read = trainer._rows(trainer.eval_dataset)
    collate = trainer._training_collate()
    read.set_epoch(2**32 - 1)
    with torch.no_grad():
        loss = trainer.model.eval()(**collate(read.__getitems__(range(8)))).loss
    assert scores[0][f"eval_{HELD_OUT}"] == pytest.approx(loss.item(), rel=1e-5)
