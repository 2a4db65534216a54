"""Contrastive learning of texts by dropout (SimCSE, arXiv:2104.08821).

Legend: B rows, in both views, T tokens, D width.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from hf_finetune.errors import InputError
from hf_finetune.pretraining.objectives.base import Predicts, Task
from hf_finetune.utils.config import Positive, configclass

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

    from hf_finetune.data.inputs import Inputs
    from hf_finetune.training.hooks import Batch


@configclass
class SimCSE:
    """Of texts: tell a text, under another dropout mask, from the others of its forward pass (arXiv:2104.08821)."""

    temperature: Positive = 0.05
    """Divides the cosine of two texts."""
    pooling: Literal["cls", "mean"] = "cls"
    """A text's vector: the state of its first token, or the mean over its tokens."""

    predicts: ClassVar[Predicts] = "nothing"
    learning_rate: ClassVar[float] = 3e-5
    compares_rows: ClassVar[bool] = True

    def check_family(self, config: PreTrainedConfig) -> None:
        """Refuse none: of every encoder of texts the states are read."""

    def task(self, network: PreTrainedModel, inputs: Inputs, rows: Dataset, example: dict[str, Any], seed: int) -> Task:
        """See `Objective.task`."""
        from hf_finetune.models.kernels.dropout import drops_out

        if not drops_out(network, example):
            raise InputError(
                "pretrain.objective: SimCSE tells views apart by dropout, and the model drops nothing out; set "
                "model.dropout to 0.1"
            )
        return SimCSETask(self, network, inputs)


class SimCSETask(Task):
    """Contrast a text under another dropout mask with the others of its forward pass."""

    objective: SimCSE

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Compute InfoNCE between the two views of each row, summed."""
        import torch

        from hf_finetune.models.heads.pooling import masked_mean
        from hf_finetune.training.losses.contrastive import contrastive

        # In one pass, in which each view has its own part of the dropout masks.
        twice = {name: torch.cat([x, x]) for name, x in batch.items() if name != "labels"}
        states_BTD = model(**twice).last_hidden_state
        if self.objective.pooling == "mean":
            vectors_BD = masked_mean(states_BTD, twice.get("attention_mask"))
        else:
            vectors_BD = states_BTD[:, 0]
        return contrastive(*vectors_BD.chunk(2), temperature=self.objective.temperature).sum()

    def scoring(self, model: nn.Module) -> AbstractContextManager[None]:
        """Put the model into training mode: dropout makes the views."""
        from hf_finetune.models.freezing import as_in_training

        return as_in_training(model)
