"""Offline augmentation: augmented copies of the training rows, made once and added to them."""

import logging
from dataclasses import replace

import torch
from accelerate import PartialState

from hf_finetune.augmentation.augmenter import Augmenter, population_of
from hf_finetune.augmentation.compose import Augmentation
from hf_finetune.augmentation.generative.paraphraser import Paraphraser, checkpoint_digests
from hf_finetune.augmentation.offline import with_copies, without_scored
from hf_finetune.data.loading import Splits
from hf_finetune.models.config import CheckpointLimits
from hf_finetune.pipeline.context import Run
from hf_finetune.pipeline.stopwatch import Stopwatch
from hf_finetune.utils import hashing

logger = logging.getLogger("hf_finetune.run")


def build_augmenter(
    operations: tuple[Augmentation, ...],
    splits: Splits,
    *,
    seed: int,
    device: torch.device,
    cache_gb: float,
    limits: CheckpointLimits,
) -> Augmenter:
    """Return the augmenter of training rows by these operations. The trainer tells it the progress of training."""
    paraphraser = Paraphraser(device, cache_gb, limits)
    return Augmenter(operations, seed, population_of(splits.train, splits.labels), paraphraser)


def run_augmenter(run: Run) -> Augmenter:
    """Return the augmenter of a run's training rows."""
    recipe = run.recipe
    return build_augmenter(
        recipe.data.augment,
        run.data.splits,
        seed=recipe.train.seed,
        device=run.context.device,
        cache_gb=recipe.batching.cache_gb,
        limits=run.context.checkpoint.limits,
    )


def add_copies(run: Run, clock: Stopwatch) -> Run:
    """Return the run with augmented copies among its training rows, under another fingerprint.

    Copies equal to a validation or test row are left out. Without offline augmentation the run is returned unchanged.
    """
    recipe, data, splits = run.recipe, run.recipe.data, run.data.splits
    if not data.augment or not data.augment_copies:
        return run
    augmenter = run_augmenter(run)
    with clock.measure("augment_s"):
        with PartialState().main_process_first():
            copied = with_copies(splits.train, run.data.inputs, augmenter, data.augment_copies)
        scored = [rows for rows in (splits.validation, splits.test) if rows is not None]
        train = without_scored(copied, len(splits.train), scored)
        if len(train) < len(copied):
            logger.info("data.augment: %d copies left out, which equal a row that is scored", len(copied) - len(train))
        models = checkpoint_digests(data.augment, run.context.checkpoint.limits)
        source = [splits.fingerprint, repr(augmenter.operations), models, len(train), recipe.train.seed]
        return run.variant(splits=replace(splits, train=train, fingerprint=hashing.of_json(source)))
