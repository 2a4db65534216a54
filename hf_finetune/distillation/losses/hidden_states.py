"""Matching of hidden states (FitNets, arXiv:1412.6550; TinyBERT, arXiv:1909.10351).

Legend: B rows, T tokens, D the teacher's width, L the teacher's layers, P pairs of layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import MinLen

from hf_finetune.distillation.losses.base import FeaturePair, Networks, RequiredFeatures
from hf_finetune.distillation.losses.layers import LayerPairs, LayerwiseLoss, layer_pairs
from hf_finetune.distillation.weight_schedules import Weight
from hf_finetune.models.families import names_where
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    from torch import Generator, Tensor


@configclass
class HiddenStates(LayerwiseLoss):
    """Match the hidden states of all tokens, projected onto the teacher's width, by the squared difference (FitNets,
    arXiv:1412.6550; TinyBERT, arXiv:1909.10351). Experimental: 1.32 times the time of plain training, and its effect on
    quality was not measured (docs/benchmarks.md#distillation)."""

    layers: Literal["uniform", "last", "learned", "searched"] | Annotated[LayerPairs, MinLen(1)] = "uniform"
    """Pairs of layers to compare. uniform: each student layer with one teacher layer, evenly spread, the last with the
    last; last: only the two last layers; learned: each student layer with a weighted mean of all teacher layers, whose
    weights train (a softmax, as in arXiv:2012.14022); searched: before training, each student layer is paired with the
    teacher layer whose states of some training examples are most similar (linear CKA, arXiv:1905.00414), in order, the
    last with the last. Or explicit pairs (student layer, teacher layer), counted from 1; 0: the embeddings."""
    weight: Weight = 0.5
    """Weight of the mean over the pairs; Ramp(start, end) changes it over the training."""

    lowest_layer: ClassVar[int] = 0
    families: ClassVar[tuple[str, ...]] = names_where(lambda family: family.one_width)
    requirement: ClassVar[str] = "layers of one width follow one another"

    def features_of(self, layers: frozenset[int]) -> RequiredFeatures:
        """Return the hidden states after these layers."""
        return RequiredFeatures(hidden=layers)

    def initial_weights(self, networks: Networks, generator: Generator) -> dict[str, Tensor]:
        """Return a projection for each pair, and for a learned map the scores (P, L) of the teacher's layers."""
        import torch

        pairs = len(layer_pairs(self.layers, networks, lowest=self.lowest_layer))
        weights = {"layer_map": torch.zeros(pairs, networks.num_layers[1])} if self.layers == "learned" else {}
        return weights | {f"projection_{i}": networks.initial_projection(generator) for i in range(pairs)}

    def __call__(self, pair: FeaturePair) -> Tensor:
        """Compute the squared difference of each row (B,), the mean over features, tokens and pairs of layers."""
        import torch

        from hf_finetune.distillation.losses.functional import squared_difference

        layers = layer_pairs(self.layers, pair.networks, lowest=self.lowest_layer)
        if self.layers == "learned":
            teacher_layers = range(1, pair.networks.num_layers[1] + 1)
            states_BTDL = torch.stack([pair.teacher.hidden[layer].float() for layer in teacher_layers], -1)
            targets = [states_BTDL @ scores_L.softmax(-1) for scores_L in pair.weights["layer_map"]]
        else:
            targets = [pair.teacher.hidden[teacher_layer] for _, teacher_layer in layers]
        differences = [
            squared_difference(pair.project(pair.student.hidden[layer], f"projection_{i}"), target, pair.mask_BT)
            for i, ((layer, _), target) in enumerate(zip(layers, targets, strict=True))
        ]
        return torch.stack(differences).mean(0)
