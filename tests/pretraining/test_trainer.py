"""Pretraining on tiny models: the losses equal those of transformers, whatever the micro-batches."""

import dataclasses
from pathlib import Path
from typing import get_args

import pytest
import torch
from helpers.checkpoints import load_image_processor, load_tokenizer
from helpers.small_runs import CPU, furthest, image_rows, text_rows, weights
from helpers.tiny import TEXT_FAMILIES, tiny_image_checkpoint, tiny_text_checkpoint

from hf_finetune.augmentation.online import TwoViews
from hf_finetune.data.inputs import ImageInputs, Inputs, TextInputs
from hf_finetune.models.checkpoint import inspect_checkpoint
from hf_finetune.pretraining.config import (
    MAE,
    ImageObjective,
    MaskedLanguage,
    PretrainObjective,
    SimCLR,
    SimCSE,
    SimMIM,
)
from hf_finetune.pretraining.models import load_pretrainable
from hf_finetune.pretraining.objectives.base import Objective
from hf_finetune.pretraining.trainer import HELD_OUT, PretrainingTrainer
from hf_finetune.pretraining.word_masking import with_words
from hf_finetune.training.arguments import training_arguments
from hf_finetune.training.config import Train
from hf_finetune.training.optim.config import SGD
from hf_finetune.training.optim.update_rule import UpdateRule
from hf_finetune.training.setup import BatchPlan, TrainingData, TrainingSetup

IMAGE_OBJECTIVES = (SimMIM(block=8), MAE(decoder_layers=1), SimCLR(temperature=0.5, projection=8))
WORDS = MaskedLanguage(share=0.3)


def small(
    folder: Path, family: str, objective: Objective, *, accumulation: int = 1, update: UpdateRule = UpdateRule()
) -> PretrainingTrainer:
    """Build a trainer of 24 rows in steps of 8, and 8 held-out rows; with dropout only for SimCSE."""
    rows = canonical = (image_rows if isinstance(objective, ImageObjective) else text_rows)(32)
    inputs: Inputs
    if isinstance(objective, ImageObjective):
        local = inspect_checkpoint(tiny_image_checkpoint(folder / family, family))
        inputs = ImageInputs(load_image_processor(str(local.folder)))
    else:
        local = inspect_checkpoint(tiny_text_checkpoint(folder / family, family))
        inputs = TextInputs(load_tokenizer(str(local.folder), max_length=32, sample=[]), 32)
        rows = with_words(inputs.encode(rows), inputs, whole_word=True)
    train = Train(
        learning_rate=1e-3,
        num_train_epochs=1.0,
        max_grad_norm=0.0,
        weight_decay=0.0,
        logging_steps=1,
        per_device_train_batch_size=8 // accumulation,
        per_device_eval_batch_size=8,
        gradient_accumulation_steps=accumulation,
    )
    arguments = training_arguments(
        folder / "checkpoints", train, metric=HELD_OUT, greater_is_better=False, mixed_precision="no", device=CPU
    )
    network = load_pretrainable(local, objective, dropout=0.1 if isinstance(objective, SimCSE) else 0.0)
    task = objective.task(network, inputs, canonical, inputs.collate(rows[:1]), 0)
    data = TrainingData(rows.select(range(24)), rows.select(range(24, 32)), inputs)
    return PretrainingTrainer(arguments, TrainingSetup(data, BatchPlan(8), update=update), task)


def batch_of(trainer: PretrainingTrainer) -> dict[str, torch.Tensor]:
    rows, collate = trainer.task.dataset(trainer.train_dataset)
    return collate(rows.__getitems__(range(8)))


@pytest.mark.parametrize("objective", [kind() for kind in get_args(PretrainObjective)], ids=lambda o: type(o).__name__)
def test_the_contract_of_objectives(tmp_path: Path, objective: Objective) -> None:
    """The loss is a scalar with gradients for the encoder, and that of held-out rows is reproducible."""
    trainer = small(tmp_path, "vit" if isinstance(objective, ImageObjective) else "bert", objective)
    loss = trainer.task.loss(trainer.model.train(), batch_of(trainer))
    assert loss.shape == () and loss.isfinite()
    loss.backward()
    trained = [p.grad for p in trainer.model.base_model.parameters() if p.grad is not None]
    assert all(grad.isfinite().all() for grad in trained) and any(grad.abs().max() > 0 for grad in trained)
    scores = [trainer._metrics(trainer.eval_dataset, "eval") for _ in range(2)]
    assert scores[0] == scores[1]


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_the_loss_of_words_equals_transformers(tmp_path: Path, family: str) -> None:
    """The head is computed only for the predicted tokens; other forward passes are unchanged."""
    trainer = small(tmp_path, family, WORDS)
    model, batch = trainer.model.eval(), batch_of(trainer)
    num_predicted = int((batch["labels"] != -100).sum())
    with torch.no_grad():
        ours, output = trainer.task.loss(model, batch), model(**batch)
    assert ours.item() / num_predicted == pytest.approx(output.loss.item(), rel=1e-5) and 8 <= num_predicted < 80
    assert output.logits.shape[:2] == batch["input_ids"].shape


def test_the_loss_of_patches_equals_transformers(tmp_path: Path) -> None:
    """All images have the same number of masked patches, so the means over images and over pixels are equal."""
    for family in ("vit", "swin"):
        trainer = small(tmp_path / family, family, IMAGE_OBJECTIVES[0])
        model, batch = trainer.model.eval(), batch_of(trainer)
        inputs = {name: x for name, x in batch.items() if name != "labels"}
        with torch.no_grad():
            ours, theirs = trainer.task.loss(model, batch), model(**inputs).loss
        assert ours.item() / 8 == pytest.approx(theirs.item(), rel=1e-4)
        # .6 of 4 x 4 squares of 8 pixels.
        assert batch["bool_masked_pos"].float().mean().item() == 10 / 16


@pytest.mark.parametrize("family", ["vit", "deit", "dinov2", "dinov2_with_registers"])
def test_the_encoder_sees_only_visible_patches(tmp_path: Path, family: str) -> None:
    """4 of 16 patches reach its layers, others in each image; masked patches do not change the prediction."""
    trainer = small(tmp_path, family, IMAGE_OBJECTIVES[1])
    model, batch = trainer.model.eval(), batch_of(trainer)
    inputs, prefix = {n: x for n, x in batch.items() if n != "labels"}, model.decoder.prefix
    tokens: list[int] = []
    first = next(m for n, m in model.encoder.named_modules() if n.endswith(("q_proj", "query")))
    first.register_forward_hook(lambda module, args, output: tokens.append(args[0].shape[1]))
    is_masked = batch["bool_masked_pos"]
    places = is_masked.view(-1, 4, 4).repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]
    with torch.no_grad():
        predicted, loss = model(**inputs), trainer.task.loss(model, batch)
        hidden, shown = (torch.where(covered, torch.zeros(()), batch["pixel_values"]) for covered in (places, ~places))
        assert torch.allclose(predicted, model(**{**inputs, "pixel_values": hidden}), atol=1e-5)
        assert not torch.allclose(predicted, model(**{**inputs, "pixel_values": shown}), atol=1e-3)
        # The target is 0 for a patch of one color, and has variance 1 for noise.
        assert trainer.task.loss(model, {**batch, "pixel_values": hidden}) < 0.9 * loss
    assert set(tokens) == {prefix + 4} and predicted.shape == (8, 12, 192)
    assert is_masked.sum(1).tolist() == [12] * 8 and len(set(map(tuple, is_masked.tolist()))) > 1


def test_positions_of_the_decoder(tmp_path: Path) -> None:
    """Each state is at its patch, the mask token at all others, and all positions differ."""
    model = small(tmp_path, "vit", IMAGE_OBJECTIVES[1]).model.eval()
    decoder, is_masked = model.decoder, torch.zeros(1, 16, dtype=torch.bool)
    is_masked[0, [0, 5, 6]] = True
    states, seen = torch.randn(1, 14, 32), []
    decoder.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0][0]))
    with torch.no_grad():
        decoder(states, is_masked)
        tokens, known = seen[0], decoder.embed(states)[0]
        assert torch.allclose(tokens[0], known[0])
        patches = tokens[1:] - decoder.positions_PD
        assert torch.allclose(patches[~is_masked[0]], known[1:], atol=1e-6)
        assert torch.allclose(patches[is_masked[0]], decoder.mask_token.expand(3, -1), atol=1e-6)
    assert torch.pdist(decoder.positions_PD).min() > 0.1
    # Row 1, column 2, at rates 1, 1/10, 1/100 and 1/1000 of 16 features.
    row, column = (n * torch.tensor([1.0, 0.1, 0.01, 0.001]) for n in (1, 2))
    assert torch.allclose(decoder.positions_PD[6], torch.cat([row.sin(), row.cos(), column.sin(), column.cos()]))


@pytest.mark.parametrize("family", ["vit", "deit", "dinov2", "swin", "beit", "convnext", "resnet", "efficientnet"])
def test_two_views_of_each_image(tmp_path: Path, family: str) -> None:
    """The loss by hand from the inputs of the family's head; views depend on seed, row and epoch only."""
    trainer = small(tmp_path, family, IMAGE_OBJECTIVES[2])
    model, batch = trainer.model.train(), batch_of(trainer)
    assert batch["pixel_values"].shape == (16, 3, 32, 32) and batch["labels"].shape == (8,)
    projected: list[torch.Tensor] = []
    last = next(m for n, m in model.named_modules() if n.endswith(".2") and getattr(m, "out_features", 0) == 8)
    last.register_forward_hook(lambda module, args, output: projected.append(output.detach()))
    loss = trainer.task.loss(model, batch)
    loss.backward()
    z = torch.nn.functional.normalize(projected[0], dim=-1)
    cosines = (z @ z.T / 0.5).exp()
    by_hand = [-(cosines[i, (i + 8) % 16] / (cosines[i].sum() - cosines[i, i])).log() for i in range(16)]
    assert loss.item() == pytest.approx(float(sum(by_hand)) / 2, rel=1e-3)
    assert all(p.grad is not None for n, p in model.named_parameters() if not n.endswith("mask_token"))
    views, _ = trainer.task.dataset(trainer.train_dataset)
    assert isinstance(views, TwoViews)
    alone = views.__getitems__([3])["pixels"]
    assert torch.equal(alone, views.__getitems__(range(8))["pixels"][[3, 11]]) and not torch.equal(*alone)
    views.set_epoch(1)
    assert not torch.equal(alone, views.__getitems__([3])["pixels"])


def test_views_differ_only_by_dropout(tmp_path: Path) -> None:
    """Without dropout the two embeddings of a row are equal, and the loss follows by hand. Padding is ignored."""
    trainer = small(tmp_path, "bert", SimCSE())
    batch = batch_of(trainer)
    with torch.no_grad():
        still, moving = trainer.task.loss(trainer.model.eval(), batch), trainer.task.loss(trainer.model.train(), batch)
        inputs = {name: x for name, x in batch.items() if name != "labels"}
        vectors = torch.nn.functional.normalize(trainer.model.eval()(**inputs).last_hidden_state[:, 0], dim=-1)
        cosines = vectors @ vectors.T / 0.05
        by_hand = (cosines.logsumexp(-1) - cosines.diagonal()).sum()
        trainer.task.objective = dataclasses.replace(trainer.task.objective, pooling="mean")
        mean = trainer.task.loss(trainer.model, batch)
        # One more column of padding.
        wider = {n: torch.nn.functional.pad(x, (0, 1)) if x.dim() == 2 else x for n, x in batch.items()}
        assert trainer.task.loss(trainer.model, wider).item() == pytest.approx(mean.item(), rel=1e-4)
    assert still.item() == pytest.approx(by_hand.item(), rel=1e-4) and moving.item() != pytest.approx(still.item())


@pytest.mark.parametrize("objective", [WORDS, *IMAGE_OBJECTIVES[:2]], ids=lambda o: type(o).__name__)
def test_the_loss_does_not_depend_on_micro_batches(tmp_path: Path, objective: Objective) -> None:
    """It is the mean over the words of a step, not the mean of its micro-batches' means."""
    family = "bert" if objective is WORDS else "vit"
    # Adam would make rounding errors as large as any other gradient.
    whole = small(tmp_path / "a", family, objective, update=UpdateRule(SGD(momentum=0.0)))
    parts = small(tmp_path / "b", family, objective, update=UpdateRule(SGD(momentum=0.0)), accumulation=4)
    before = weights(whole)
    for trainer in (whole, parts):
        trainer.train()
    assert furthest(weights(whole), before) > 1e-4
    assert furthest(weights(whole), weights(parts)) < 1e-6
    losses = [[line["loss"] for line in t.state.log_history if "loss" in line] for t in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and len(losses[0]) == 3


@pytest.mark.parametrize("objective", IMAGE_OBJECTIVES, ids=lambda o: type(o).__name__)
def test_the_loss_of_held_out_images_is_reproducible(tmp_path: Path, objective: Objective) -> None:
    """They have masks and views of their own, whatever the epoch of training."""
    trainer = small(tmp_path, "vit", objective)
    scores = [trainer._metrics(trainer.eval_dataset, "eval") for _ in range(2)]
    assert scores[0] == scores[1]
    dataset, collate = trainer.task.dataset(trainer.eval_dataset)
    dataset.set_epoch(2**32 - 1)
    with torch.no_grad():
        loss = trainer.task.loss(trainer.model.eval(), collate(dataset.__getitems__(range(8))))
    assert scores[0][f"eval_{HELD_OUT}"] == pytest.approx(loss.item() / 8, rel=1e-5)


def test_held_out_texts_have_masks_of_their_own(tmp_path: Path) -> None:
    """Their loss is reproducible and equals transformers'; training's random numbers do not change."""
    trainer = small(tmp_path, "bert", WORDS)
    state = torch.get_rng_state()
    scores = [trainer._metrics(trainer.eval_dataset, "eval") for _ in range(2)]
    assert scores[0] == scores[1] and torch.equal(state, torch.get_rng_state())
    dataset, collate = trainer.task.dataset(trainer.eval_dataset)
    dataset.set_epoch(2**32 - 1)
    with torch.no_grad():
        loss = trainer.model.eval()(**collate(dataset.__getitems__(range(8)))).loss
    assert scores[0][f"eval_{HELD_OUT}"] == pytest.approx(loss.item(), rel=1e-5)
