"""The update rule of a run: optimizer, learning-rate schedule, parameter groups and sparse word embeddings."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, TrainingArguments

from hf_finetune.data.inputs import Inputs
from hf_finetune.training.optim.config import AdamW, Optimizer
from hf_finetune.training.optim.rate_groups import Rates, rate_groups, rates_in_words
from hf_finetune.training.optim.schedule_config import CONSTANT, ResolvedSchedule
from hf_finetune.training.optim.vocabulary_adamw import occurring_rows

logger = logging.getLogger("hf_finetune.run")


@dataclass(frozen=True)
class UpdateRule:
    """How gradients change the weights. TrainingArguments hold the peak learning rate and the weight decay."""

    optimizer: Optimizer = AdamW()
    schedule: ResolvedSchedule = CONSTANT
    rates: Rates = Rates()
    """How learning rates differ between parameters."""
    sparse_embeddings: bool = False
    """Update only the embeddings of words that occur, see `VocabularyAdamW`. For AdamW on texts."""

    def build_optimizer(
        self, model: PreTrainedModel, args: TrainingArguments, inputs: Inputs, train_rows: Dataset
    ) -> torch.optim.Optimizer:
        """Build the optimizer over the model's trainable parameters.

        Args:
            args: have the peak learning rate and the weight decay.
            inputs: encodes the rows.
            train_rows: encoded rows.

        Raises:
            InputError: see `rate_groups.rate_groups`.
        """
        lr, split_matrices = args.learning_rate, self.optimizer.splits_matrices
        groups = rate_groups(
            model, lr=lr, weight_decay=args.weight_decay, rates=self.rates, split_matrices=split_matrices
        )
        if len({group["lr"] for group in groups}) > 1:
            logger.info("peak learning rates: %s", rates_in_words(groups))
        if not self.sparse_embeddings:
            return self.optimizer.build(groups, lr)
        assert isinstance(self.optimizer, AdamW), "the others take dense gradients"
        table = cast(nn.Parameter, _word_embeddings(model).weight)
        return self.optimizer.build_sparse(groups, lr, table=table, rows=occurring_rows(inputs, train_rows))

    @contextmanager
    def sparse_gradients(self, model: PreTrainedModel) -> Iterator[None]:
        """Make the gradients of the word embeddings row-sparse, where they are updated sparsely."""
        if not self.sparse_embeddings:
            yield
            return
        embeddings = _word_embeddings(model)
        embeddings.sparse = True
        try:
            yield
        finally:
            embeddings.sparse = False


def _word_embeddings(model: PreTrainedModel) -> nn.Embedding:
    table = model.get_input_embeddings()
    assert isinstance(table, nn.Embedding), "a text model embeds words"
    return table
