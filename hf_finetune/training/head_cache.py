"""Disk cache of fitted heads: the same network, rows and settings give the same head, to the bit.

A fit costs a forward pass over thousands of rows, a look-up one pass of SHA-256 over the weights. The key holds
everything that the bits of a fit depend on.
"""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file, save
from torch import nn
from transformers import PreTrainedModel

from hf_finetune.training.warm_start import FittedHead
from hf_finetune.utils import disk_cache, environment, hashing

logger = logging.getLogger("hf_finetune")

FORMAT = 6
"""Raise it when `warm_start` fits differently."""
FILE = "head.safetensors"


def entry(model: PreTrainedModel, layers: Collection[nn.Module], rows: Dataset, settings: Mapping[str, Any]) -> Path:
    """Return the cache entry of a head.

    Args:
        model: network whose features are fitted, its weights and configuration.
        layers: the model's layers that fitted heads replace. Their weights reach no feature, so runs that differ only
            in their random heads, as those of several seeds, share a head.
        rows: the rows with their labels: columns of numbers and of lists of numbers.
        settings: everything else that decides the bits, as JSON. Versions, processor and threads are added here.
    """
    config = {name: value for name, value in model.config.to_dict().items() if name != "_name_or_path"}
    replaced = {name for name, module in model.named_modules() if module in layers}
    weights = {name: w for name, w in model.state_dict().items() if name.rpartition(".")[0] not in replaced}
    key = {
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
    return disk_cache.entry_folder("heads", key)


def read(folder: Path) -> FittedHead | None:
    """Return the cached head, or None if it is absent or damaged."""

    def load(folder: Path, _: dict[str, Any]) -> FittedHead:
        tensors = load_file(folder / FILE)
        return FittedHead(tensors["weight"], tensors["bias"], float(tensors["explained"]))

    return disk_cache.find(folder, load)


def write(folder: Path, head: FittedHead, *, budget_gb: float) -> None:
    """Cache a head. A failure is only logged, because the run has its head.

    Args:
        budget_gb: see `disk_cache.building`.
    """
    explained = torch.tensor(head.explained, dtype=torch.float64)
    content = save({"weight": head.weight_CD.contiguous(), "bias": head.bias_C.contiguous(), "explained": explained})
    try:
        with disk_cache.building(folder, needed=len(content), budget_gb=budget_gb, about={}) as build:
            build.append(FILE, content)
    except disk_cache.CacheUnavailable as error:
        logger.warning("the fitted head cannot be cached for later runs: %s", error)
