"""Small images first, whole ones after: by the step alone, and never when rows are judged."""

from pathlib import Path

import pytest
import torch
from helpers.small_runs import furthest, small_trainer, trainer_with, weights
from helpers.tiny import IMAGE_FAMILIES
from transformers import TrainerCallback

from hf_finetune.errors import InputError
from hf_finetune.models.patches import drop_patches, shrink_for
from hf_finetune.training.checkpoints import CheckpointKeeper, newest_whole
from hf_finetune.training.low_resolution import LowResolution
from hf_finetune.training.trainer import ClassifierTrainer


class KillAt(TrainerCallback):
    """Fails as a crash would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def trainer_at(folder: Path, *callbacks: TrainerCallback, small: bool = True, **options) -> ClassifierTrainer:
    """2 epochs of 5 steps, the first 6 of these at 16 pixels, with half of the patches."""
    made = trainer_with(hooks=lambda model: [LowResolution(shrink_for(model, 16), 0.55)] if small else [])
    trainer = small_trainer(folder, "vit", num_train_epochs=2.0, dropout=0.1, trainer=made, **options)
    drop_patches(trainer.model, 0.5)
    for callback in (*callbacks, CheckpointKeeper([])):
        trainer.add_callback(callback)
    return trainer


def sizes_seen(trainer: ClassifierTrainer) -> list[tuple[bool, int, int]]:
    """(training, pixels of a side, tokens of the first layer) of every forward pass."""
    seen, model = [], trainer.model
    sides = []
    model.vit.embeddings.register_forward_pre_hook(
        lambda module, inputs, options: sides.append(inputs[0].shape[-1]), with_kwargs=True
    )
    model.vit.layers[0].register_forward_pre_hook(
        lambda module, inputs: seen.append((module.training, sides[-1], inputs[0].shape[1]))
    )
    return seen


def test_small_images_in_the_first_steps_only(tmp_path: Path) -> None:
    trainer = trainer_at(tmp_path, micro_batch=4, accumulation=2)
    seen = sizes_seen(trainer)
    trainer.train()
    trained = [(side, tokens) for training, side, tokens in seen if training]
    # Steps 0 to 5 of 10, two micro-batches each.
    assert trained[:20] == [(16, 1 + 2)] * 12 + [(32, 1 + 8)] * 8
    judged = {(side, tokens) for training, side, tokens in seen if not training}
    assert judged == {(32, 1 + 16)}


def test_killed_run_resumes_to_the_same_bits(tmp_path: Path) -> None:
    """Killed at step 7, it goes on after step 5, the last but one of the small ones; the dropped patches, too."""
    straight = trainer_at(tmp_path / "straight")
    straight.train()
    with pytest.raises(KeyboardInterrupt):
        trainer_at(tmp_path / "killed", KillAt(7)).train()
    again = trainer_at(tmp_path / "killed")
    again.train(resume_from_checkpoint=str(newest_whole(tmp_path / "killed" / "checkpoints")))
    assert furthest(weights(again), weights(straight)) == 0.0


@pytest.mark.parametrize("family", [*IMAGE_FAMILIES, "modernbert", "albert"])
def test_every_weight_is_found_again(tmp_path: Path, family: str) -> None:
    """The stock Trainer's checkpoints of ViT, DINOv2 and Swin hold names that it does not find when it loads them."""
    trainer = small_trainer(tmp_path, family, max_steps=1)
    trainer.save_model(str(tmp_path / "saved"))
    before = weights(trainer)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.zero_()
    trainer._load_from_checkpoint(str(tmp_path / "saved"))
    assert furthest(weights(trainer), before) == 0.0
    assert not (tmp_path / "saved" / "training_args.bin").exists()


def test_checkpoint_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    """The stock Trainer warns and goes on with whatever the model had."""
    trainer = small_trainer(tmp_path, "vit", max_steps=1)
    # As the stock Trainer saves it.
    trainer.model.save_pretrained(tmp_path / "saved")
    with pytest.raises(InputError, match=r"lacks 48 of the model's weights \(vit\.layers\.0\."):
        trainer._load_from_checkpoint(str(tmp_path / "saved"))


def test_changes_the_training(tmp_path: Path) -> None:
    """Else the tests above would hold for a switch that does nothing."""
    with_it = trainer_at(tmp_path / "with")
    with_it.train()
    without = trainer_at(tmp_path / "without", small=False)
    without.train()
    assert furthest(weights(with_it), weights(without)) > 0
    assert torch.isfinite(with_it.model.classifier.weight).all()
