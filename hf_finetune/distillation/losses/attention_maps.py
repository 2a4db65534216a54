"""Matching of attention maps (TinyBERT, arXiv:1909.10351; MiniLM, arXiv:2002.10957)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import MinLen

from hf_finetune.distillation.losses.base import FeaturePair, RequiredFeatures
from hf_finetune.distillation.losses.layers import LayerPairs, LayerwiseLoss, layer_pairs
from hf_finetune.distillation.weight_schedules import Weight
from hf_finetune.models.families import names_where
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    from torch import Tensor


@configclass
class AttentionMaps(LayerwiseLoss):
    """Match how much each token attends to each other token, head by head (arXiv:1909.10351, arXiv:2002.10957).

    Where the two networks have different numbers of heads, the means over the heads are compared. Attention dropout
    has no part in it."""

    layers: Literal["uniform", "last", "searched"] | Annotated[LayerPairs, MinLen(1)] = "uniform"
    """Pairs of layers to compare, as in HiddenStates. searched: by the divergence of the heads' mean attention.
    Explicit pairs count layers from 1."""
    form: Literal["kl", "mse"] = "kl"
    """kl: KL divergence from the teacher's attention; mse: squared difference of the probabilities."""
    weight: Weight = 0.5
    """Weight of the mean over the pairs; Ramp(start, end) changes it over the training."""

    lowest_layer: ClassVar[int] = 1
    # Attention is the softmax of queries times keys, with nothing added to the scores.
    families: ClassVar[tuple[str, ...]] = names_where(lambda family: family.one_width and family.attention == "plain")
    requirement: ClassVar[str] = "attention maps follow from queries and keys"

    def features_of(self, layers: frozenset[int]) -> RequiredFeatures:
        """Return the queries and keys of these layers."""
        return RequiredFeatures(attention=layers)

    def __call__(self, pair: FeaturePair) -> Tensor:
        """Compute the difference of attention in each row (B,), the mean over tokens, heads and pairs of layers."""
        import torch

        from hf_finetune.distillation.losses import functional

        compare = {"kl": functional.attention_kl, "mse": functional.attention_mse}[self.form]
        student_heads, teacher_heads = pair.networks.num_heads
        differences = []
        for student_layer, teacher_layer in layer_pairs(self.layers, pair.networks, lowest=self.lowest_layer):
            student_BHTT = functional.log_attention_map(pair.student, student_layer, student_heads)
            teacher_BHTT = functional.log_attention_map(pair.teacher, teacher_layer, teacher_heads)
            if student_heads != teacher_heads:
                student_BHTT, teacher_BHTT = map(functional.mean_over_heads, (student_BHTT, teacher_BHTT))
            differences.append(compare(student_BHTT, teacher_BHTT, pair.mask_BT))
        return torch.stack(differences).mean(0)
