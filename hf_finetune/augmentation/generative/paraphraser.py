"""Generative augmentation with a disk cache: the next run reads the same texts and loads no model.

A model's logits differ in rounding between batch compositions and machines, so that a sampled word may differ; cached
texts do not.
"""

import json
import logging
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from hf_finetune.augmentation.compose import Augmentation, generative_operations
from hf_finetune.augmentation.generative.base import GenerativeOperation
from hf_finetune.augmentation.generative.checkpoints import digest, load, settings_digests
from hf_finetune.augmentation.generative.sources import Source
from hf_finetune.models.config import CHECKPOINT_LIMITS, CheckpointLimits
from hf_finetune.utils import disk_cache
from hf_finetune.utils.plain import to_plain

logger = logging.getLogger("hf_finetune.run")

# Increased whenever the output of an operation changes.
FORMAT = 2
FILE = "texts.json"


def check_checkpoints(operations: Sequence[Augmentation], limits: CheckpointLimits = CHECKPOINT_LIMITS) -> None:
    """Refuse unsuitable checkpoints before a run, without loading their weights.

    Args:
        limits: limits on what their files say.

    Raises:
        InputError: see `checkpoints.load`.
    """
    for source in _sources(operations):
        load(source, torch.device("meta"), limits)


def checkpoint_digests(operations: Sequence[Augmentation], limits: CheckpointLimits = CHECKPOINT_LIMITS) -> list[str]:
    """Return the digests of the operations' checkpoints, see `checkpoints.digest`.

    Raises:
        InputError: see `checkpoints.digest`.
    """
    return [digest(source, limits) for source in _sources(operations)]


def checkpoint_files(
    operations: Sequence[Augmentation], limits: CheckpointLimits = CHECKPOINT_LIMITS
) -> list[dict[str, str]]:
    """Return the SHA-256 of the files beside the weights of each of the operations' checkpoints, by name.

    Raises:
        InputError: see `checkpoints.digest`.
    """
    return [settings_digests(source, limits) for source in _sources(operations)]


def _sources(operations: Sequence[Augmentation]) -> list[Source]:
    return [source for operation in generative_operations(operations) for source in operation.sources]


class Paraphraser:
    """Runs generative operations (`operations.Paraphrase`), or reads their output from the disk cache.

    Each model is loaded at its first use, and stays in memory until `release`.

    Args:
        device: device of the models.
        cache_gb: limit of the whole disk cache in gigabytes (10^9 bytes).
        limits: limits on what the models' files say.
    """

    def __init__(self, device: torch.device, cache_gb: float, limits: CheckpointLimits = CHECKPOINT_LIMITS) -> None:
        self.cache_gb = cache_gb
        self._load = cache(partial(load, device=device, limits=limits))
        self._digest = cache(partial(digest, limits=limits))

    def __call__(self, operation: GenerativeOperation, texts: Sequence[str], seeds: Sequence[int]) -> list[str]:
        """Return the texts as the operation changes them.

        Raises:
            InputError: see `checkpoints.load`.
        """
        folder = disk_cache.entry_folder(
            "texts",
            {
                "format": FORMAT,
                "operation": {"type": type(operation).__name__, **to_plain(operation)},
                "checkpoints": [self._digest(source) for source in operation.sources],
                "texts": list(texts),
                "seeds": list(seeds),
            },
        )

        def read(folder: Path, _: dict[str, Any]) -> list[str]:
            cached = json.loads((folder / FILE).read_bytes())
            if len(cached) != len(texts):
                raise ValueError(f"{FILE} holds {len(cached)} texts")
            return cached

        if (cached := disk_cache.find(folder, read)) is not None:
            logger.info("%s: %d augmented texts read from %s", type(operation).__name__, len(texts), folder)
            disk_cache.pin(folder)
            return cached
        changed = operation.rewrite(texts, seeds, self._load)
        content, about = json.dumps(changed).encode(), {"texts": len(texts)}
        try:
            with disk_cache.building(folder, needed=len(content), budget_gb=self.cache_gb, about=about) as new:
                new.append(FILE, content)
            disk_cache.pin(folder)
        except disk_cache.CacheUnavailable as reason:
            logger.warning("augmented texts are not cached for later runs: %s", reason)
        return changed

    def release(self) -> None:
        """Free the memory of the models."""
        self._load.cache_clear()
