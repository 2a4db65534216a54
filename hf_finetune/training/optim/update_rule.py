"""How gradients become new weights: optimizer, learning-rate schedule, rate groups and sparse word embeddings
together."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel

from hf_finetune.data.inputs import Inputs
from hf_finetune.training.optim.config import AdamW, Optimizer
from hf_finetune.training.optim.rate_groups import Rates, rate_groups, rates_in_words
from hf_finetune.training.optim.schedule_config import ResolvedSchedule
from hf_finetune.training.optim.sparse_embeddings import rows_that_occur

logger = logging.getLogger("hf_finetune.run")


@dataclass(frozen=True)
class UpdateRule:
    """What updates the weights; peak learning rate and weight decay are those of the TrainingArguments."""

    optimizer: Optimizer = AdamW()
    schedule: ResolvedSchedule | None = None
    """None: that of the TrainingArguments."""
    rates: Rates = Rates()
    """How learning rates differ between parameters."""
    sparse_embeddings: bool = False
    """Update the embeddings of the words that occur, see `VocabularyAdamW`; with AdamW, for texts."""

    def optimizer_for(
        self,
        model: PreTrainedModel,
        *,
        lr: float,
        weight_decay: float,
        inputs: Inputs,
        train_rows: Dataset,
    ) -> torch.optim.Optimizer:
        """The optimizer over the model's parameters.

        Args:
            lr: peak learning rate.
            weight_decay: of what decays, see `rate_groups`.
            inputs: of the model.
            train_rows: encoded.

        Raises:
            InputError: see `rate_groups.rate_groups`.
        """
        groups = rate_groups(
            model,
            lr=lr,
            weight_decay=weight_decay,
            rates=self.rates,
            split_matrices=self.optimizer.splits_matrices,
        )
        if len({group["lr"] for group in groups}) > 1:
            logger.info("peak learning rates: %s", rates_in_words(groups))
        if not self.sparse_embeddings:
            return self.optimizer.build(groups, lr)
        assert isinstance(self.optimizer, AdamW), "the others take dense gradients"
        table = cast(nn.Parameter, word_embeddings(model).weight)
        return self.optimizer.build_sparse(groups, lr, table=table, rows=rows_that_occur(inputs, train_rows))

    @contextmanager
    def sparse_gradients(self, model: PreTrainedModel) -> Iterator[None]:
        """Within it, gradients of the word embeddings hold only the rows that a step read."""
        if not self.sparse_embeddings:
            yield
            return
        embeddings = word_embeddings(model)
        embeddings.sparse = True
        try:
            yield
        finally:
            embeddings.sparse = False


def word_embeddings(model: PreTrainedModel) -> nn.Embedding:
    """The table of a network of texts."""
    table = model.get_input_embeddings()
    assert isinstance(table, nn.Embedding), "of words"
    return table
