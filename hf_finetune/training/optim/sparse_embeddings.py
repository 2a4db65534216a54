"""Word embeddings whose gradients hold only the rows that a step read, for `optim.VocabularyAdamW`."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset
from torch import nn

from hf_finetune.data.inputs import Inputs, TextInputs
from hf_finetune.data.tokens import used_token_ids
from hf_finetune.training.optim.vocabulary_adamw import clip_gradients


class SparseWords:
    """A model's word embeddings, with row-sparse gradients until `end`.

    Args:
        model: a network of texts; gradients of its word embeddings are sparse from now on.
        inputs: its inputs.
    """

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        assert isinstance(inputs, TextInputs), "only texts have words"
        self.padding = inputs.tokenizer.pad_token_id
        self.embeddings: nn.Embedding = model.get_input_embeddings()
        self.embeddings.sparse = True

    def that_occur(self, encoded: Dataset) -> torch.Tensor:
        """Rows of the table that training reads, padding among them, shape (U,), int64."""
        return torch.from_numpy(np.union1d(used_token_ids(encoded), self.padding))

    def clip(self, accelerator: Accelerator, model: nn.Module, max_norm: float) -> torch.Tensor:
        """What the Trainer does with `torch.nn.utils.clip_grad_norm_`, which knows no row-sparse gradients."""
        accelerator.unscale_gradients()
        return clip_gradients(model.parameters(), max_norm)

    def end(self) -> None:
        """Leave an ordinary model behind."""
        self.embeddings.sparse = False
