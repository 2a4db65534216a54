"""Operations of a training step, counted once for networks of one structure, and one peak to compare them with."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from transformers import PreTrainedModel

from hf_finetune.training import flops


def count_once() -> None:
    """Let the runs of this process share counts and peak, which take longer than the training of a tiny network.

    Tests of the two import them before this.
    """
    count, measure, counts = flops.training_flops, flops.gemm_peak, dict[Any, int]()

    def counted(model: PreTrainedModel, batch: flops.Batch) -> int:
        weights = tuple((name, weight.shape, weight.requires_grad) for name, weight in model.named_parameters())
        inputs = tuple((name, v.shape if isinstance(v, torch.Tensor) else v) for name, v in sorted(batch.items()))
        structure = type(model), model.config._attn_implementation, weights, inputs
        if structure not in counts:
            counts[structure] = count(model, batch)
        return counts[structure]

    @cache
    def measured(dtype: torch.dtype, device: torch.device) -> float:
        return measure(dtype, device, width=32, budget_s=0.0)

    flops.training_flops = counted
    flops.gemm_peak = lambda dtype, device, **_: measured(dtype, device)
