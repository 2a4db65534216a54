"""Matching of hidden states (FitNets, arXiv:1412.6550; TinyBERT, arXiv:1909.10351).

Legend: B rows, T tokens, S the student's width, D the teacher's, L its layers, P pairs of layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import MinLen

from hf_finetune.distillation.losses.base import (
    UNIFORM_LAYERS,
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
class HiddenStates:
    """The state of every token after a layer, projected onto the teacher's width, by the squared difference
    (FitNets, arXiv:1412.6550; TinyBERT, arXiv:1909.10351)."""

    layers: Literal["uniform", "last", "learned", "searched"] | Annotated[LayerPairs, MinLen(1)] = "uniform"
    """Which layers go together. uniform: each of the student's with one of the teacher's, spread evenly, the last with
    the last; last: the last two alone; learned: each of the student's with a weighted mean of all of the teacher's,
    whose weights train (a softmax, as in arXiv:2012.14022); searched: before training, each of the student's with one
    of the teacher's in their order, the last with the last, so that their states of some training rows are as alike as
    can be (linear CKA, arXiv:1905.00414); or pairs (student's, teacher's), counted from 1, 0 the embeddings."""
    weight: Weight = 0.5
    """How much the mean over the pairs counts; Ramp(start, end) changes it over the training."""

    def required(self, networks: Networks) -> Required:
        """Return the features that it needs of the student, and of the teacher.

        Raises:
            InputError: one of the two does not have them.
        """
        networks.check_families(self, UNIFORM_LAYERS, "layers of one width follow one another")
        student, teacher = compared_layers(self.layers, networks, lowest=0)
        return RequiredFeatures(hidden=student), RequiredFeatures(hidden=teacher)

    def initial_weights(self, networks: Networks, generator: Generator) -> dict[str, Tensor]:
        """Return a projection for each pair, and of a learned map the scores (P, L) of the teacher's layers."""
        import torch

        from hf_finetune.distillation.losses.functional import initial_projection

        pairs = len(layer_pairs(self.layers, networks, lowest=0))
        weights = {"layer_map": torch.zeros(pairs, networks.layers[1])} if self.layers == "learned" else {}
        return weights | {f"projection_{i}": initial_projection(networks, generator) for i in range(pairs)}

    def __call__(self, pair: FeaturePair) -> Tensor:
        """Compute the squared difference of each row (B,), the mean over features, tokens and pairs of layers."""
        import torch

        from hf_finetune.distillation.losses.functional import squared_difference

        layers = layer_pairs(self.layers, pair.networks, lowest=0)
        targets = [pair.teacher.hidden[other] for _, other in layers if self.layers != "learned"]
        if self.layers == "learned":
            states_BTDL = torch.stack([pair.teacher.hidden[k + 1].float() for k in range(pair.networks.layers[1])], -1)
            targets = [states_BTDL @ scores_L.softmax(-1) for scores_L in pair.weights["layer_map"]]
        differences = [
            squared_difference(pair.project(pair.student.hidden[own], f"projection_{i}"), target, pair.mask_BT)
            for i, ((own, _), target) in enumerate(zip(layers, targets, strict=True))
        ]
        return torch.stack(differences).mean(0)
