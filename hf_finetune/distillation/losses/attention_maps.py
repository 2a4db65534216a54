"""Matching of attention maps (TinyBERT, arXiv:1909.10351; MiniLM, arXiv:2002.10957)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import MinLen

from hf_finetune.distillation.losses.base import (
    PLAIN_ATTENTION,
    FeaturePair,
    LayerPairs,
    Networks,
    Required,
    RequiredFeatures,
    compared_layers,
    layer_pairs,
)
from hf_finetune.distillation.weight_schedules import Weight
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    from torch import Generator, Tensor


@configclass
class AttentionMaps:
    """How much each token attends to each other one, head by head (arXiv:1909.10351, arXiv:2002.10957).

    Where the two networks have other numbers of heads, by the mean over each one's heads. Without dropout's noise."""

    layers: Literal["uniform", "last", "searched"] | Annotated[LayerPairs, MinLen(1)] = "uniform"
    """Which layers go together, see HiddenStates; searched: by the divergence of the heads' mean attention; pairs count
    from 1."""
    form: Literal["kl", "mse"] = "kl"
    """kl: divergence from the teacher's attention; mse: squared difference of the probabilities."""
    weight: Weight = 0.5
    """How much the mean over the pairs counts; Ramp(start, end) changes it over the training."""

    def required(self, networks: Networks) -> Required:
        """Return the features that it needs of the student, and of the teacher.

        Raises:
            InputError: one of the two does not have them.
        """
        networks.check_families(self, PLAIN_ATTENTION, "attention maps can be told of queries and keys")
        student, teacher = compared_layers(self.layers, networks, lowest=1)
        return RequiredFeatures(attention=student), RequiredFeatures(attention=teacher)

    def initial_weights(self, networks: Networks, generator: Generator) -> dict[str, Tensor]:
        """Return no weights: attention has no width."""
        return {}

    def __call__(self, pair: FeaturePair) -> Tensor:
        """Compute the difference of each row's attention (B,), the mean over tokens, heads and pairs of layers."""
        import torch

        from hf_finetune.distillation.losses import functional

        compare = {"kl": functional.attention_kl, "mse": functional.attention_mse}[self.form]
        heads, other_heads = pair.networks.heads
        differences = []
        for own, other in layer_pairs(self.layers, pair.networks, lowest=1):
            maps = [
                functional.log_attention_map(pair.student, own, heads),
                functional.log_attention_map(pair.teacher, other, other_heads),
            ]
            if heads != other_heads:
                maps = [functional.mean_over_heads(log_BHTT) for log_BHTT in maps]
            differences.append(compare(maps[0], maps[1], pair.mask_BT))
        return torch.stack(differences).mean(0)
