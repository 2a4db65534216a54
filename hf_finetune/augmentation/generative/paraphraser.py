"""Texts that language models have changed, in the disk cache: the next run reads the same ones to the bit and loads no
model.

A model's numbers round differently in another batch, so that a word drawn on the edge may differ between two machines
or two ways to put batches together; cached texts do not.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hf_finetune.augmentation.compose import Augmentation, generative_operations
from hf_finetune.augmentation.generative.base import GenerativeOperation
from hf_finetune.augmentation.generative.checkpoints import LanguageModel, digest, load
from hf_finetune.augmentation.generative.sources import Source
from hf_finetune.utils import disk_cache
from hf_finetune.utils.plain import to_plain

logger = logging.getLogger("hf_finetune.run")

# Raised whenever an operation comes to change texts otherwise.
FORMAT = 2
FILE = "texts.json"


def check_checkpoints(operations: Sequence[Augmentation]) -> None:
    """Refuse checkpoints that will not do, before a run begins and without their weights.

    Raises:
        InputError: see `checkpoints.load`.
    """
    for source in _sources(operations):
        load(source, torch.device("meta"))


def checkpoint_digests(operations: Sequence[Augmentation]) -> list[str]:
    """What the paraphrases of the operations depend on beside the operations' fields.

    Raises:
        InputError: see `checkpoints.digest`.
    """
    return [digest(source) for source in _sources(operations)]


def _sources(operations: Sequence[Augmentation]) -> list[Source]:
    return [source for operation in generative_operations(operations) for source in operation.sources]


class Paraphraser:
    """Changes texts by language models, see `operations.Paraphrase`, or reads what an earlier run has changed.

    Each model is loaded once, when the first text needs it, until `release`.

    Args:
        device: of the models.
        cache_gb: gigabytes (10^9 bytes) that the whole disk cache may take.
    """

    def __init__(self, device: torch.device, cache_gb: float) -> None:
        self.device, self.cache_gb = device, cache_gb
        self._models: dict[Source, LanguageModel] = {}
        self._digests: dict[Source, str] = {}

    def __call__(self, operation: GenerativeOperation, texts: Sequence[str], seeds: Sequence[int]) -> list[str]:
        """The texts as the operation changes them.

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
            logger.info("%s: %d changed texts found in %s", type(operation).__name__, len(texts), folder)
            disk_cache.pin(folder)
            return cached
        changed = operation.rewrite(texts, seeds, self._load)
        content, about = json.dumps(changed).encode(), {"texts": len(texts)}
        try:
            with disk_cache.building(folder, needed=len(content), budget_gb=self.cache_gb, about=about) as new:
                new.append(FILE, content)
            disk_cache.pin(folder)
        except disk_cache.CacheUnavailable as reason:
            logger.warning("changed texts are not cached for a later run: %s", reason)
        return changed

    def release(self) -> None:
        """Give back the memory of the models."""
        self._models.clear()

    def _load(self, source: Source) -> LanguageModel:
        if source not in self._models:
            self._models[source] = load(source, self.device)
        return self._models[source]

    def _digest(self, source: Source) -> str:
        if source not in self._digests:
            self._digests[source] = digest(source)
        return self._digests[source]
