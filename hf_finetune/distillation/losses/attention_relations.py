"""Matching of self-attention relations (MiniLMv2, arXiv:2012.15828)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hf_finetune.distillation.losses.base import FeaturePair, Networks, Required, RequiredFeatures, TokenLoss
from hf_finetune.distillation.losses.layers import layer_pairs
from hf_finetune.distillation.weight_schedules import Weight
from hf_finetune.errors import InputError
from hf_finetune.models.families import names_where
from hf_finetune.utils.config import Count, configclass

if TYPE_CHECKING:
    from torch import Tensor


@configclass
class AttentionRelations(TokenLoss):
    """Match the similarities among a layer's queries, among its keys and among its values, token by token (MiniLMv2,
    arXiv:2012.15828). The two networks may have any width and any number of heads. Experimental: 1.25 times the time of
    plain training, and its effect on quality was not measured (docs/benchmarks.md#distillation)."""

    teacher_layer: Count | None = None
    """Teacher layer that the student's last layer is matched with, counted from 1. None: the last; of 24 layers the
    paper takes the 21st."""
    relation_heads: Count | None = None
    """Heads into which the queries, keys and values of both networks are split. None: as many as the student has. More
    heads carry more information (the paper takes 48)."""
    weight: Weight = 0.5
    """Weight of the sum of the three parts; Ramp(start, end) changes it over the training."""

    # Positions may be added to the attention scores, but each layer has queries, keys and values.
    families: ClassVar[tuple[str, ...]] = names_where(lambda family: family.one_width and family.attention is not None)
    requirement: ClassVar[str] = "queries, keys and values are separate"

    def required(self, networks: Networks) -> Required:
        """Return the queries, keys and values of one layer of each network.

        Raises:
            InputError: a network does not have them, or its width cannot be split into so many heads.
        """
        networks.check_families(self, self.families, self.requirement)
        heads = self._heads(networks)
        for role, config in networks._asdict().items():
            if config.hidden_size % heads:
                divisor = f"a divisor of the {role}'s width {config.hidden_size}"
                raise InputError(f"AttentionRelations.relation_heads: expected {divisor}, got {heads}")
        student, teacher = self._layers(networks)
        return RequiredFeatures(attention=frozenset({student})), RequiredFeatures(attention=frozenset({teacher}))

    def __call__(self, pair: FeaturePair) -> Tensor:
        """Compute the KL divergence of each row's relations (B,), the sum over queries, keys and values."""
        import torch

        from hf_finetune.distillation.losses.functional import attention_kl, log_attention

        heads = self._heads(pair.networks)
        sides = list(zip((pair.student, pair.teacher), self._layers(pair.networks), strict=True))
        divergences = []
        for name in ("query", "key", "value"):
            states = [(features.attention[layer][name], features.mask_BT) for features, layer in sides]
            student_BHTT, teacher_BHTT = (log_attention(x, x, mask_BT, heads=heads) for x, mask_BT in states)
            divergences.append(attention_kl(student_BHTT, teacher_BHTT, pair.mask_BT))
        return torch.stack(divergences).sum(0)

    def _heads(self, networks: Networks) -> int:
        return self.relation_heads or networks.num_heads[0]

    def _layers(self, networks: Networks) -> tuple[int, int]:
        student, teacher = networks.num_layers
        return layer_pairs(((student, self.teacher_layer or teacher),), networks, lowest=1)[0]
