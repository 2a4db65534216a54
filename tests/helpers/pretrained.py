"""Recipes that pretrain first, on tiny checkpoints."""

import csv
import dataclasses
from pathlib import Path

import torch
from helpers.small_runs import image_folder, small_recipe
from helpers.tiny import tiny_image_checkpoint

from hf_finetune import Evaluate, ImageData, Model, Precision, Recipe, Train
from hf_finetune.pipeline.load_data import load_splits
from hf_finetune.pipeline.pretrain_setup import PretrainingSetup, setup_pretraining, split_pretraining_rows
from hf_finetune.pipeline.run import prepare
from hf_finetune.pretraining.config import MaskedLanguage, Pretrain, SimMIM


def pretrained_texts(folder: Path) -> Recipe:
    """Ten rows of each class with a label, all rows and a file of others to pretrain on."""
    plain = small_recipe(folder)
    judged = load_splits(plain.data).validation["text"][:]
    with (folder / "more.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["body"])
        lines.writerows([[text] for text in ("a good film", "a good film", *judged[:2], "the worst of all games")])
    return dataclasses.replace(
        plain,
        data=dataclasses.replace(plain.data, rows_per_class=10),
        train=dataclasses.replace(plain.train, logging_steps=1, learning_rate=1e-3),
        pretrain=Pretrain(
            MaskedLanguage(share=0.3), rows=(str(folder / "more.csv"),), num_train_epochs=1.0, learning_rate=3e-3
        ),
    )


def pretrained_images(folder: Path) -> Recipe:
    """24 images, of which 2 are validation rows, in steps of 8."""
    return Recipe(
        name="small",
        data=ImageData(path=str(image_folder(folder / "train", 24))),
        model=Model(checkpoint=str(tiny_image_checkpoint(folder / "vit"))),
        train=Train(num_train_epochs=1.0, per_device_train_batch_size=8),
        precision=Precision(mixed_precision="no"),
        evaluate=Evaluate(resamples=100, baselines=False, plots=False),
        pretrain=Pretrain(SimMIM(block=8), learning_rate=3e-3, num_train_epochs=4.0),
    )


def stage_of(recipe: Recipe) -> PretrainingSetup:
    prepared = prepare(recipe)
    return setup_pretraining(prepared, split_pretraining_rows(prepared))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)
