"""Single weights set to zero by their magnitude: for study.

The matrices keep their shape, so that the network computes as long as before and its file is as large: only a
compressed copy of it is smaller.
"""

from __future__ import annotations

import copy
import gzip
from dataclasses import replace
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_finetune.compression.steps import Step, StepRows
from hf_finetune.models.exported_network import ExportedNetwork
from hf_finetune.models.modules import encoder
from hf_finetune.tasks.trained_model import TrainedModel
from hf_finetune.utils.config import OpenFraction, configclass


@configclass
class ZeroWeights(Step):
    """Set the smallest weights of the encoder's linear layers to zero (magnitude pruning, arXiv:1506.02626).

    It saves no time, and bytes only where the file is compressed, see `compressed_bytes`.
    """

    name = "zero-weights"
    share: OpenFraction = 0.5
    """Share of the weights of all linear layers of the encoder."""

    def refusal(self, classifier: TrainedModel) -> str | None:
        """Refuse graphs."""
        if isinstance(classifier.model, ExportedNetwork):
            return "it is exported already; name the folder of its run"
        return None

    def row_passes(self, rows: StepRows) -> int:
        """Return its cost: none."""
        return 0

    def apply(self, classifier: TrainedModel, rows: StepRows) -> TrainedModel:
        """Return the classifier with zeros."""
        return replace(classifier, model=with_zeros(cast(PreTrainedModel, classifier.model), self.share))


@torch.no_grad()
def with_zeros(model: PreTrainedModel, share: float) -> PreTrainedModel:
    """Return a copy of a model whose smallest weights, of all linear layers of its encoder together, are zero."""
    model = copy.deepcopy(model)
    weights = [module.weight for module in encoder(model).modules() if isinstance(module, nn.Linear)]
    sizes = torch.cat([weight.detach().abs().flatten().cpu() for weight in weights])
    largest_removed = sizes.kthvalue(max(1, round(share * len(sizes)))).values
    for weight in weights:
        weight[weight.abs() <= largest_removed.to(weight.device)] = 0.0
    return model


def compressed_bytes(model: nn.Module) -> int:
    """Return the bytes of the weights as gzip writes them: where zeros are seen, other than in the file itself."""
    return sum(len(gzip.compress(weight.detach().cpu().numpy().tobytes(), 1)) for weight in model.parameters())
