"""Gradients of word embeddings that hold only the rows that a step read, for `VocabularyAdamW`."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from datasets import Dataset
from torch import nn

from hf_finetune.data.inputs import Inputs, TextInputs
from hf_finetune.data.tokens import used_token_ids


def rows_that_occur(inputs: Inputs, encoded: Dataset) -> torch.Tensor:
    """Rows of the table of word embeddings that training reads, padding among them, shape (U,), int64."""
    assert isinstance(inputs, TextInputs), "only texts have words"
    return torch.from_numpy(np.union1d(used_token_ids(encoded), inputs.tokenizer.pad_token_id))


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> torch.Tensor:
    """As `torch.nn.utils.clip_grad_norm_`, for row-sparse gradients as well. Returns the norm before."""
    gradients = []
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            # A word that occurs twice in a batch is summed first: the norm is the dense gradient's.
            parameter.grad = parameter.grad.coalesce()
            gradients.append(parameter.grad.values())
        elif parameter.grad is not None:
            gradients.append(parameter.grad)
    norm = nn.utils.get_total_norm(gradients)
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    if gradients:
        torch._foreach_mul_(gradients, factor)
    return norm
