"""Whole runs of students of images that are to have more of their teacher than its logits."""

import dataclasses
from pathlib import Path

import pytest
from helpers.represented import classifier, furthest, refused, trained, with_kinds
from helpers.small_runs import image_folder, small_recipe
from helpers.tiny import tiny_image_checkpoint
from transformers import ViTImageProcessor

from hf_finetune import Batching, Distill, ImageData, Model, Recipe, Supervised, Train
from hf_finetune.augmentation.image.geometry import Flip
from hf_finetune.distillation.config import AttentionMaps, Contrastive, Embedding, HiddenStates, SoftTargets
from hf_finetune.distillation.feature_matching.teacher_features import ComputedFeatures

pytestmark = pytest.mark.usefixtures("gate_here")


def pictures(tmp_path: Path) -> Recipe:
    """A ViT beside a DeiT, which is given patches normalised in its own way."""
    deit = str(classifier(tmp_path / "deit", "deit"))
    ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.4] * 3, image_std=[0.2] * 3).save_pretrained(deit)
    return dataclasses.replace(
        small_recipe(tmp_path),
        data=ImageData(path=str(image_folder(tmp_path / "train", 24))),
        model=Model(checkpoint=str(tiny_image_checkpoint(tmp_path / "vit"))),
        objective=Distill(teacher=deit, kinds=(HiddenStates(), AttentionMaps()), labels_weight=1.0),
    )


def test_states_of_patches_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a DeiT, behind whose two first tokens the student's patches begin, and whose pixels are normalised in its own
    way."""
    recipe = dataclasses.replace(
        pictures(tmp_path), train=Train(num_train_epochs=2.0, per_device_train_batch_size=8, learning_rate=1e-3)
    )
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    kept = trained(recipe, tmp_path / "kept")
    with monkeypatch.context() as patch:
        # Of one image, which tells how many tokens each has.
        computed, once = [], ComputedFeatures.__call__
        patch.setattr(ComputedFeatures, "__call__", lambda *given: computed.append(0) or once(*given))
        assert furthest(kept, trained(recipe, tmp_path / "found")) == 0.0 and len(computed) == 1
    uncached = trained(recipe, tmp_path / "uncached", batching=Batching(cache_gb=1e-3))
    assert (
        furthest(kept, uncached) < 1e-4 < furthest(kept, trained(with_kinds(recipe, SoftTargets()), tmp_path / "other"))
    )


def test_images(tmp_path: Path) -> None:
    """That change in every epoch; and a ResNet's embeddings."""
    still = pictures(tmp_path)
    resnet = str(classifier(tmp_path / "resnet", "resnet"))
    recipe = dataclasses.replace(still, data=dataclasses.replace(still.data, augment=(Flip(),)))
    one = trained(recipe, tmp_path / "one")
    assert furthest(one, trained(recipe, tmp_path / "alone", objective=Supervised())) > 1e-6
    trained(with_kinds(recipe, Embedding(), Contrastive(), teacher=resnet), tmp_path / "other")

    large = str(classifier(tmp_path / "large", "deit", image_size=48))
    ViTImageProcessor(size={"height": 48, "width": 48}).save_pretrained(large)
    other = dataclasses.replace(still, objective=dataclasses.replace(still.objective, teacher=large))
    refused(
        other, tmp_path, r"objective.kinds\[0\]: it compares patch by patch, and .*large reads 36 patches of \(48, 48\)"
    )
