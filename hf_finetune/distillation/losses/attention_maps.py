"""Matching of attention maps (TinyBERT, arXiv:1909.10351; MiniLM, arXiv:2002.10957)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import MinLen

from hf_finetune.distillation.networks import PLAIN_ATTENTION, LayerPairs, Networks, layer_pairs
from hf_finetune.distillation.weight_schedules import Weight
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    import torch

    from hf_finetune.distillation.features import Features, RequiredFeatures


@configclass
class AttentionMaps:
    """How much each token attends to each other one, head by head (arXiv:1909.10351, arXiv:2002.10957).

    Where the two networks have other numbers of heads, by the mean over each one's heads. Without dropout's noise."""

    layers: Literal["uniform", "last", "searched"] | Annotated[LayerPairs, MinLen(1)] = "uniform"
    """Which layers go together, see HiddenStates; searched: by the divergence of the heads' mean attention; pairs count from
    1."""
    form: Literal["kl", "mse"] = "kl"
    """kl: divergence from the teacher's attention; mse: squared difference of the probabilities."""
    weight: Weight = 0.5
    """How much the mean over the pairs counts; Ramp(start, end) changes it over the training."""

    def required(self, networks: Networks) -> tuple[RequiredFeatures, RequiredFeatures]:
        """Return what the loss needs of the student, and of the teacher; all layers where they are to be searched.

        Raises:
            InputError: one of the two does not have it.
        """
        from hf_finetune.distillation.features import RequiredFeatures

        networks.check_families(self, PLAIN_ATTENTION, "attention maps can be told of queries and keys")
        every = tuple(range(1, layers + 1) for layers in networks.layers)
        student, teacher = every if self.layers == "searched" else zip(*self._pairs(networks), strict=True)
        return RequiredFeatures(attention=frozenset(student)), RequiredFeatures(attention=frozenset(teacher))

    def initial_weights(self, networks: Networks, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Return no weights: attention has no width."""
        return {}

    def __call__(
        self, student: Features, teacher: Features, networks: Networks, weights: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Compute the difference of each row's attention (B,), the mean over tokens, heads and pairs."""
        import torch

        from hf_finetune.distillation.losses import functional

        compare = {"kl": functional.attention_kl, "mse": functional.attention_mse}[self.form]
        differences = []
        for pair in self._pairs(networks):
            maps = [
                features.log_attention(layer, heads)
                for features, layer, heads in zip((student, teacher), pair, networks.heads, strict=True)
            ]
            if networks.heads[0] != networks.heads[1]:
                maps = [functional.mean_over_heads(log_BHTT) for log_BHTT in maps]
            differences.append(compare(*maps, student.mask_BT))
        return torch.stack(differences).mean(0)

    def _pairs(self, networks: Networks) -> LayerPairs:
        return layer_pairs(self.layers, networks, lowest=1)
