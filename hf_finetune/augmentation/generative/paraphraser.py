"""Texts that language models have changed, kept on the disk: the next run finds the same ones to the bit and loads no model.

A model's numbers round differently in other company, so that a word drawn on the edge may differ between two machines or two
ways to put batches together; what was kept does not.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_finetune.augmentation.compose import Augmentation, generative_operations
from hf_finetune.augmentation.generative.back_translation import Search, by_way_of, split_sentences
from hf_finetune.augmentation.generative.checkpoints import Task, digest, load
from hf_finetune.augmentation.generative.config import BackTranslate, GenerativeOperation, SubstituteByModel
from hf_finetune.augmentation.generative.masked_lm import fill, open_words
from hf_finetune.utils import disk_cache
from hf_finetune.utils.codec import to_plain

logger = logging.getLogger("hf_finetune.run")

# Raised whenever an operation comes to change texts otherwise.
FORMAT = 2
FILE = "texts.json"


def check_checkpoints(operations: Sequence[Augmentation]) -> None:
    """Refuse checkpoints that will not do, before a run begins and without their weights.

    Raises:
        InputError: see `checkpoints.load`.
    """
    for operation in generative_operations(operations):
        for name, revision, task in _asked(operation):
            load(name, revision, task, torch.device("meta"))


def checkpoint_digests(operations: Sequence[Augmentation]) -> list[str]:
    """What the answers of the models among the operations depend on beside the operations' fields.

    Raises:
        InputError: see `checkpoints.digest`.
    """
    return [
        digest(name, revision)
        for operation in generative_operations(operations)
        for name, revision, _ in _asked(operation)
    ]


def _asked(operation: GenerativeOperation) -> list[tuple[str, str | None, Task]]:
    """Checkpoints of an operation, with their revisions and tasks."""
    match operation:
        case SubstituteByModel(checkpoint, revision=revision):
            return [(checkpoint, revision, "masked words")]
        case BackTranslate(there, back, there_revision=outward, back_revision=homeward):
            return [(there, outward, "translation"), (back, homeward, "translation")]


@dataclass(frozen=True)
class Paraphraser:
    """What `operations.Paraphrase` asks for: from an earlier run where it left it, else from the models."""

    device: torch.device
    cache_gb: float
    """Gigabytes (10^9 bytes) that all stores may take together."""

    def __call__(self, operation: GenerativeOperation, texts: Sequence[str], seeds: Sequence[int]) -> list[str]:
        """The texts as the operation changes them.

        Raises:
            InputError: see `checkpoints.load`.
        """
        folder = disk_cache.folder_of(
            "texts",
            {
                "format": FORMAT,
                "operation": {"type": type(operation).__name__, **to_plain(operation)},
                "checkpoints": checkpoint_digests([operation]),
                "texts": list(texts),
                "seeds": list(seeds),
            },
        )

        def read(folder: Path, _: dict[str, Any]) -> list[str]:
            found = json.loads((folder / FILE).read_bytes())
            if len(found) != len(texts):
                raise ValueError(f"{FILE} holds {len(found)} texts")
            return found

        if (found := disk_cache.find(folder, read)) is not None:
            logger.info("%s: %d changed texts found in %s", type(operation).__name__, len(texts), folder)
            disk_cache.hold(folder)
            return found
        changed = ask(operation, texts, seeds, self.device)
        content = json.dumps(changed).encode()
        try:
            with disk_cache.building(
                folder, needed=len(content), budget_gb=self.cache_gb, about={"texts": len(texts)}
            ) as new:
                new.append(FILE, content)
            disk_cache.hold(folder)
        except disk_cache.NoStore as reason:
            logger.warning("changed texts are not kept for a later run: %s", reason)
        return changed


def ask(operation: GenerativeOperation, texts: Sequence[str], seeds: Sequence[int], device: torch.device) -> list[str]:
    """The texts as the operation's models change them, on a device.

    Raises:
        InputError: see `checkpoints.load`.
    """
    match operation:
        case SubstituteByModel():
            return _substituted(operation, texts, seeds, device)
        case BackTranslate():
            return _translated(operation, texts, seeds, device)


def _substituted(
    operation: SubstituteByModel, texts: Sequence[str], seeds: Sequence[int], device: torch.device
) -> list[str]:
    rngs = map(np.random.default_rng, seeds)
    opened = [open_words(text, operation.p, rng) for text, rng in zip(texts, rngs, strict=True)]
    if not any(text.places for text in opened):
        return list(texts)
    return fill(
        opened,
        *(load(*asked, device) for asked in _asked(operation)),
        top_k=operation.top_k,
        temperature=operation.temperature,
        max_length=operation.max_length,
        batch_size=operation.batch_size,
    )


def _translated(
    operation: BackTranslate, texts: Sequence[str], seeds: Sequence[int], device: torch.device
) -> list[str]:
    pieces = [split_sentences(text) for text in texts]
    places = [(i, j) for i, parts in enumerate(pieces) for j, part in enumerate(parts) if any(map(str.isalpha, part))]
    if not places:
        return list(texts)
    changed = by_way_of(
        [pieces[i][j] for i, j in places],
        # Of each sentence, for the way there and the way back.
        [((seeds[i], j, 0), (seeds[i], j, 1)) for i, j in places],
        *(load(*asked, device) for asked in _asked(operation)),
        prefixes=(operation.there_prefix, operation.back_prefix),
        search=Search(
            operation.num_beams, operation.temperature, operation.top_k, operation.max_length, operation.batch_size
        ),
    )
    for (i, j), sentence in zip(places, changed, strict=True):
        pieces[i][j] = sentence
    return ["".join(parts) for parts in pieces]
