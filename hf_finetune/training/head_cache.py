"""Fitted heads of earlier runs on this machine: the same network, rows and settings give the same head, to the bit.

A fit costs a forward pass over thousands of rows; looking it up costs one pass of SHA-256 over the weights. A key holds
everything that the fit's bits depend on, so what is found is what a fit would give.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn
from transformers import PreTrainedModel

from hf_finetune.training.warm_start import FittedHead
from hf_finetune.utils import environment, hashing
from hf_finetune.utils.files import write_bytes

logger = logging.getLogger("hf_finetune")

FORMAT = 4
"""To be raised when `warm_start` fits otherwise."""
KEPT = 100
"""Heads in the store; those used least recently go first."""


def key_of(model: PreTrainedModel, layers: Collection[nn.Module], rows: Dataset, settings: Mapping[str, Any]) -> str:
    """Name of a head in the store.

    Args:
        model: the network whose features are fitted, its own weights and configuration.
        layers: of it, those whose place fitted heads take: what they hold reaches no feature, so runs whose random
            heads alone differ, as those of several seeds, share a head.
        rows: what the network is shown, with their labels: columns of numbers and of lists of numbers.
        settings: whatever else decides the bits, as JSON has it. Versions, processor and threads are added here.
    """
    config = {name: value for name, value in model.config.to_dict().items() if name != "_name_or_path"}
    replaced = {name for name, module in model.named_modules() if module in layers}
    weights = {name: w for name, w in model.state_dict().items() if name.rpartition(".")[0] not in replaced}
    parts = {
        "format": FORMAT,
        "weights": hashing.of_tensors(weights),
        "network": f"{model}",
        "config": config,
        "attention": model.config._attn_implementation,
        "rows": hashing.of_columns(rows),
        "settings": dict(settings),
        "versions": environment.versions(),
        "hardware": environment.hardware(model.device, 1),
        "float32_matmul": torch.get_float32_matmul_precision(),
    }
    return hashing.of_json(parts)


def read(key: str) -> FittedHead | None:
    """A stored head; None when there is none, or a damaged one, which is said."""
    path = _path(key)
    try:
        content = path.read_bytes()
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            raise ValueError("its bytes are not those that were written")
        tensors = load(content[32:])
        head = FittedHead(tensors["weight"], tensors["bias"], float(tensors["explained"]))
        os.utime(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        logger.warning("%s: cannot be used (%s): the head is fitted anew", path, error)
        return None
    return head


def write(key: str, head: FittedHead) -> None:
    """Store a head. A store that cannot be written is said, and nothing more: the run has its head."""
    explained = torch.tensor(head.explained, dtype=torch.float64)
    content = save({"weight": head.weight_CD.contiguous(), "bias": head.bias_C.contiguous(), "explained": explained})
    path = _path(key)
    try:
        write_bytes(path, hashlib.sha256(content).digest() + content)
        for old in sorted(path.parent.glob("*.head"), key=_last_used, reverse=True)[KEPT:]:
            old.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s: the fitted head cannot be kept for later runs (%s)", path.parent, error.strerror)


def _path(key: str) -> Path:
    return environment.cache_folder() / "heads" / f"{key}.head"


def _last_used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another run has made room
        return 0.0
