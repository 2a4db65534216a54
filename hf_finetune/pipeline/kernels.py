"""What a run computes with: number formats, attention kernel and threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from transformers import PreTrainedModel

from hf_finetune.data.inputs import Rows, columns_of, with_labels
from hf_finetune.models.surgery.attention import SetAttention
from hf_finetune.pipeline.batching import micro_batch, trains_unpadded
from hf_finetune.pipeline.context import PreparedRun
from hf_finetune.pipeline.update_rule import shortcuts
from hf_finetune.training import probe
from hf_finetune.training.precision import Kernels, launched


def default_kernels(run: PreparedRun) -> Kernels:
    """What runs unless the start-up probe finds something faster."""
    config = run.recipe.precision
    return Kernels(
        mixed_precision=run.context.mixed_precision,
        float32_matmul="highest" if config.float32_matmul == "auto" else config.float32_matmul,
        attention=run.model.network.config._attn_implementation,
        threads=config.threads or torch.get_num_threads(),
    )


def free_kernels(run: PreparedRun) -> frozenset[str]:
    """Fields of `Kernels` that the probe may choose: those that neither the recipe nor the launcher sets."""
    config, model = run.recipe.precision, run.recipe.model
    is_free = {
        "mixed_precision": config.mixed_precision == "auto" and not launched(),
        "float32_matmul": config.float32_matmul == "auto",
        "attention": model.attn_implementation is None
        and not any(isinstance(step, SetAttention) for step in model.surgery),
        # One process alone would be timed on the cores of all.
        "threads": config.threads is None and run.context.processes == 1,
    }
    return frozenset(name for name, free in is_free.items() if free)


def choose_kernels(run: PreparedRun, network: PreTrainedModel, train_rows: Dataset, steps: int) -> probe.KernelChoice:
    """What trains fastest; the main process decides for all.

    Args:
        network: as it trains.
        train_rows: encoded.
        steps: optimizer steps of the run.
    """
    choice: list[Any] = [None]
    if PartialState().is_main_process:
        choice[0] = probe.choose(
            network,
            _typical_batch(run, train_rows),
            default=default_kernels(run),
            free=free_kernels(run),
            planned_steps=steps,
            method=run.recipe.effective_method,
            shortcuts=shortcuts(run.context),
            # Rows end to end go through other kernels than these.
            probe=run.recipe.precision.probe and not trains_unpadded(run),
        )
    return broadcast_object_list(choice)[0]


def _typical_batch(run: PreparedRun, train_rows: Dataset) -> dict[str, torch.Tensor]:
    """Rows of the mean length, as many as a forward pass takes."""
    inputs, size = run.data.inputs, min(micro_batch(run).rows, len(train_rows))
    lengths, chosen = inputs.lengths(train_rows), np.arange(size)
    if lengths is not None:
        order = np.argsort(lengths, kind="stable")
        middle = int(np.searchsorted(lengths[order], lengths.mean()))
        start = min(max(0, middle - size // 2), len(order) - size)
        chosen = order[start : start + size]
    rows = Rows(train_rows, columns_of(inputs, labels=True)).__getitems__(chosen.tolist())
    batch = {name: tensor.to(run.context.device) for name, tensor in with_labels(inputs.collate, rows).items()}
    # What a row without a label costs matters to no clock.
    batch["labels"].clamp_(min=0)
    return batch
