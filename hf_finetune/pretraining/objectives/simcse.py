"""Contrastive learning of texts by dropout (SimCSE, arXiv:2104.08821).

Legend: B rows of both views, T tokens, D width.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from hf_finetune.errors import InputError
from hf_finetune.pretraining.objectives.base import Objective, Predicts, Task
from hf_finetune.utils.config import Positive, configclass

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from torch import nn
    from transformers import PreTrainedModel

    from hf_finetune.data.inputs import Inputs
    from hf_finetune.training.hooks import Batch


@configclass
class SimCSE(Objective):
    """For texts of all families: contrast a text under two dropout masks with the other texts of its forward pass
    (arXiv:2104.08821)."""

    temperature: Positive = 0.05
    """Divides the cosines of texts."""
    pooling: Literal["cls", "mean"] = "cls"
    """Embedding of a text: the last hidden state of its first token, or the mean over its tokens."""

    predicts: ClassVar[Predicts] = "nothing"
    learning_rate: ClassVar[float] = 3e-5
    compares_rows: ClassVar[bool] = True

    def task(self, network: PreTrainedModel, inputs: Inputs, rows: Dataset, example: dict[str, Any], seed: int) -> Task:
        """Refuse a network without dropout, see `Objective.task`."""
        from hf_finetune.models.kernels.dropout import drops_out

        if not drops_out(network, example):
            raise InputError(
                "pretrain.objective: SimCSE needs dropout to make two views of a text, and the model has none; set "
                "model.dropout to 0.1"
            )
        return SimCSETask(self, network, inputs, seed)


class SimCSETask(Task):
    """Contrasts a text under two dropout masks with the other texts of its forward pass."""

    objective: SimCSE

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Compute InfoNCE between the two views of each row, summed."""
        import torch

        from hf_finetune.models.heads.pooling import masked_mean
        from hf_finetune.training.losses.contrastive import contrastive

        # One forward pass of both views, which have their own dropout masks.
        twice = {name: torch.cat([x, x]) for name, x in batch.items() if name != "labels"}
        states_BTD = model(**twice).last_hidden_state
        if self.objective.pooling == "mean":
            embeddings_BD = masked_mean(states_BTD, twice.get("attention_mask"))
        else:
            embeddings_BD = states_BTD[:, 0]
        return contrastive(*embeddings_BD.chunk(2), temperature=self.objective.temperature).sum()

    def scoring(self, model: nn.Module) -> AbstractContextManager[None]:
        """Put the model into training mode, so that dropout makes the views."""
        from hf_finetune.models.freezing import as_in_training

        return as_in_training(model)
