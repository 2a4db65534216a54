"""Operations of a training step, counted once for networks of one structure."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from hf_finetune.training import flops


def count_once() -> None:
    """Let the runs of this process share their counts, which take as long as the training of a tiny network.

    Tests of the count import `training_flops` before this.
    """
    count, counts = flops.training_flops, dict[Any, int]()

    def counted(model: PreTrainedModel, batch: flops.Batch) -> int:
        weights = tuple((name, weight.shape, weight.requires_grad) for name, weight in model.named_parameters())
        inputs = tuple((name, v.shape if isinstance(v, torch.Tensor) else v) for name, v in sorted(batch.items()))
        structure = type(model), model.config._attn_implementation, weights, inputs
        if structure not in counts:
            counts[structure] = count(model, batch)
        return counts[structure]

    flops.training_flops = counted
