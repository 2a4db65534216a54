"""Matching of self-attention relations (MiniLMv2, arXiv:2012.15828)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hf_finetune.distillation.networks import PROJECTED_ATTENTION, Networks, layer_pairs
from hf_finetune.distillation.weight_schedules import Weight
from hf_finetune.errors import InputError
from hf_finetune.utils.config import Count, configclass

if TYPE_CHECKING:
    import torch

    from hf_finetune.distillation.features import Features, RequiredFeatures


@configclass
class AttentionRelations:
    """How alike a layer's queries are among themselves, its keys and its values, token by token (MiniLMv2,
    arXiv:2012.15828): for networks of any width and any number of heads."""

    teacher_layer: Count | None = None
    """The teacher's layer that the student's last one follows, counted from 1. None: the last; of 24 layers the paper takes
    the 21st."""
    relation_heads: Count | None = None
    """Heads that the queries, keys and values are cut into anew, in both networks. None: as many as the student has; more
    tell more (the paper takes 48)."""
    weight: Weight = 0.5
    """How much the sum of the three counts; Ramp(start, end) changes it over the training."""

    def required(self, networks: Networks) -> tuple[RequiredFeatures, RequiredFeatures]:
        """Return what the loss needs of the student, and of the teacher.

        Raises:
            InputError: one of the two does not have it, or its width cannot be cut into so many heads.
        """
        from hf_finetune.distillation.features import RequiredFeatures

        networks.check_families(self, PROJECTED_ATTENTION, "queries, keys and values stand apart")
        heads = self._heads(networks)
        for config, role in zip(networks, networks._fields, strict=True):
            if config.hidden_size % heads:
                raise InputError(
                    f"AttentionRelations.relation_heads: expected a divisor of the {role}'s width {config.hidden_size}, "
                    f"got {heads}"
                )
        student, teacher = self._layers(networks)
        return RequiredFeatures(attention=frozenset({student})), RequiredFeatures(attention=frozenset({teacher}))

    def initial_weights(self, networks: Networks, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Return no weights: relations have no width."""
        return {}

    def __call__(
        self, student: Features, teacher: Features, networks: Networks, weights: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Compute the divergence of each row's relations (B,), the sum over queries, keys and values."""
        import torch

        from hf_finetune.distillation.features import PROJECTIONS
        from hf_finetune.distillation.losses.functional import attention_kl, log_attention

        def relation(features: Features, layer: int, name: str) -> torch.Tensor:
            x_BTD = features.attention[layer][name]
            return log_attention(x_BTD, x_BTD, features.mask_BT, heads=self._heads(networks))

        own, other = self._layers(networks)
        divergences = [
            attention_kl(relation(student, own, name), relation(teacher, other, name), student.mask_BT)
            for name in PROJECTIONS
        ]
        return torch.stack(divergences).sum(0)

    def _heads(self, networks: Networks) -> int:
        return self.relation_heads or networks.heads[0]

    def _layers(self, networks: Networks) -> tuple[int, int]:
        student, teacher = networks.layers
        (pair,) = layer_pairs(((student, self.teacher_layer or teacher),), networks, lowest=1)
        return pair
