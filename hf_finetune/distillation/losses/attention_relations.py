"""Matching of self-attention relations (MiniLMv2, arXiv:2012.15828)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.distillation.losses.base import (
    PROJECTED_ATTENTION,
    FeaturePair,
    Networks,
    Required,
    RequiredFeatures,
    layer_pairs,
)
from hf_finetune.distillation.weight_schedules import Weight
from hf_finetune.errors import InputError
from hf_finetune.utils.config import Count, configclass

if TYPE_CHECKING:
    from torch import Generator, Tensor


@configclass
class AttentionRelations:
    """How alike a layer's queries are among themselves, its keys and its values, token by token (MiniLMv2,
    arXiv:2012.15828): for networks of any width and any number of heads."""

    teacher_layer: Count | None = None
    """The teacher's layer that the student's last one follows, counted from 1. None: the last; of 24 layers the paper
    takes the 21st."""
    relation_heads: Count | None = None
    """Heads that the queries, keys and values are cut into anew, in both networks. None: as many as the student has;
    more tell more (the paper takes 48)."""
    weight: Weight = 0.5
    """How much the sum of the three counts; Ramp(start, end) changes it over the training."""

    def required(self, networks: Networks) -> Required:
        """Return the features that it needs of the student, and of the teacher.

        Raises:
            InputError: one of the two does not have them, or its width cannot be cut into so many heads.
        """
        networks.check_families(self, PROJECTED_ATTENTION, "queries, keys and values stand apart")
        heads = self._heads(networks)
        for role, config in networks._asdict().items():
            if config.hidden_size % heads:
                width = f"a divisor of the {role}'s width {config.hidden_size}"
                raise InputError(f"AttentionRelations.relation_heads: expected {width}, got {heads}")
        student, teacher = self._layers(networks)
        return RequiredFeatures(attention=frozenset({student})), RequiredFeatures(attention=frozenset({teacher}))

    def initial_weights(self, networks: Networks, generator: Generator) -> dict[str, Tensor]:
        """Return no weights: relations have no width."""
        return {}

    def __call__(self, pair: FeaturePair) -> Tensor:
        """Compute the divergence of each row's relations (B,), the sum over queries, keys and values."""
        import torch

        from hf_finetune.distillation.losses.functional import attention_kl, log_attention

        heads = self._heads(pair.networks)
        sides = list(zip((pair.student, pair.teacher), self._layers(pair.networks), strict=True))
        divergences = []
        for name in ("query", "key", "value"):
            states = [(features.attention[layer][name], features.mask_BT) for features, layer in sides]
            own_BHTT, other_BHTT = (log_attention(x_BTD, x_BTD, mask_BT, heads=heads) for x_BTD, mask_BT in states)
            divergences.append(attention_kl(own_BHTT, other_BHTT, pair.mask_BT))
        return torch.stack(divergences).sum(0)

    def _heads(self, networks: Networks) -> int:
        return self.relation_heads or networks.heads[0]

    def _layers(self, networks: Networks) -> tuple[int, int]:
        student, teacher = networks.layers
        return layer_pairs(((student, self.teacher_layer or teacher),), networks, lowest=1)[0]
