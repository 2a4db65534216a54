"""Offline augmentation: changed copies of the training rows, made once and put beside them."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import torch
from accelerate import PartialState

from hf_finetune.augmentation.augmenter import Augmenter, population_of
from hf_finetune.augmentation.generative.paraphraser import Paraphraser, checkpoint_digests
from hf_finetune.augmentation.offline import with_copies, without_scored
from hf_finetune.data.loading import Splits
from hf_finetune.pipeline.context import PreparedRun
from hf_finetune.pipeline.stopwatch import Stopwatch
from hf_finetune.utils import hashing

logger = logging.getLogger("hf_finetune.run")


def augmenter_of(
    operations: tuple[Any, ...], splits: Splits, *, seed: int, device: torch.device, cache_gb: float
) -> Augmenter:
    """What changes the training rows of these data; the trainer adds how far the training is."""
    return Augmenter(operations, seed, population_of(splits.train, splits.labels), Paraphraser(device, cache_gb))


def run_augmenter(run: PreparedRun) -> Augmenter | None:
    """What changes the run's training rows; None: nothing."""
    recipe = run.recipe
    if not recipe.data.augment:
        return None
    return augmenter_of(
        recipe.data.augment,
        run.data.splits,
        seed=recipe.train.seed,
        device=run.context.device,
        cache_gb=recipe.batching.cache_gb,
    )


def add_copies(run: PreparedRun, clock: Stopwatch) -> PreparedRun:
    """The run with its stored copies among the training rows, under a fingerprint of their own; as it is without."""
    recipe, data, splits = run.recipe, run.recipe.data, run.data.splits
    augmenter = run_augmenter(run)
    if augmenter is None or not data.augment_copies:
        return run
    with clock.measure("augment_s"):
        with PartialState().main_process_first():
            copied = with_copies(splits.train, run.data.inputs, augmenter, data.augment_copies)
        scored = [rows for rows in (splits.validation, splits.test) if rows is not None]
        train = without_scored(copied, len(splits.train), scored)
        if len(train) < len(copied):
            logger.info("data.augment: %d copies left out, which equal a row that is scored", len(copied) - len(train))
        models = checkpoint_digests(data.augment)
        source = [splits.fingerprint, repr(augmenter.operations), models, len(train), recipe.train.seed]
        return run.varied(splits=replace(splits, train=train, fingerprint=hashing.of_json(source)))
