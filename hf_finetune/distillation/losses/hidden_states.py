"""Matching of hidden states (FitNets, arXiv:1412.6550; TinyBERT, arXiv:1909.10351).

Legend: B rows, T tokens, S the student's width, D the teacher's, L its layers, P pairs of layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import MinLen

from hf_finetune.distillation.networks import UNIFORM_LAYERS, LayerPairs, Networks, layer_pairs
from hf_finetune.distillation.weight_schedules import Weight
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    import torch

    from hf_finetune.distillation.features import Features, RequiredFeatures


@configclass
class HiddenStates:
    """The state of every token after a layer, projected onto the teacher's width, by the squared difference
    (FitNets, arXiv:1412.6550; TinyBERT, arXiv:1909.10351)."""

    layers: Literal["uniform", "last", "learned", "searched"] | Annotated[LayerPairs, MinLen(1)] = "uniform"
    """Which layers go together. uniform: each of the student's with one of the teacher's, spread evenly, the last with the
    last; last: the last two alone; learned: each of the student's with a weighted mean of all of the teacher's, whose weights
    train (a softmax, as in arXiv:2012.14022); searched: before training, each of the student's with one of the teacher's in
    their order, the last with the last, so that their states of some training rows are as alike as can be (linear CKA,
    arXiv:1905.00414); or pairs (student's, teacher's), counted from 1, 0 the embeddings."""
    weight: Weight = 0.5
    """How much the mean over the pairs counts; Ramp(start, end) changes it over the training."""

    def required(self, networks: Networks) -> tuple[RequiredFeatures, RequiredFeatures]:
        """Return what the loss needs of the student, and of the teacher; all layers where they are to be searched.

        Raises:
            InputError: one of the two does not have it.
        """
        from hf_finetune.distillation.features import RequiredFeatures

        networks.check_families(self, UNIFORM_LAYERS, "layers of one width follow one another")
        every = tuple(range(1, layers + 1) for layers in networks.layers)
        student, teacher = every if self.layers == "searched" else zip(*self._pairs(networks), strict=True)
        if self.layers == "learned":
            teacher = every[1]
        return RequiredFeatures(hidden=frozenset(student)), RequiredFeatures(hidden=frozenset(teacher))

    def initial_weights(self, networks: Networks, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Return a projection for each pair, and of a learned map the scores (P, L) of the teacher's layers."""
        import torch

        from hf_finetune.distillation.losses.functional import initial_projection

        pairs = self._pairs(networks)
        weights = {"layer_map": torch.zeros(len(pairs), networks.layers[1])} if self.layers == "learned" else {}
        return weights | {f"projection_{i}": initial_projection(networks, generator) for i in range(len(pairs))}

    def __call__(
        self, student: Features, teacher: Features, networks: Networks, weights: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Compute the squared difference of each row (B,), the mean over features, tokens and pairs."""
        import torch

        from hf_finetune.distillation.losses.functional import project, squared_difference

        own = [student.hidden[layer] for layer, _ in self._pairs(networks)]
        projected = [project(x_BTS, weights[f"projection_{i}"]) for i, x_BTS in enumerate(own)]
        targets = self._targets(teacher, networks, weights)
        differences = [squared_difference(*pair, student.mask_BT) for pair in zip(projected, targets, strict=True)]
        return torch.stack(differences).mean(0)

    def _targets(
        self, teacher: Features, networks: Networks, weights: Mapping[str, torch.Tensor]
    ) -> list[torch.Tensor]:
        """Return what each of the student's layers is to match, shape (B, T, D)."""
        import torch

        if self.layers != "learned":
            return [teacher.hidden[layer] for _, layer in self._pairs(networks)]
        layers = range(1, networks.layers[1] + 1)
        states_BTDL = torch.stack([teacher.hidden[layer].float() for layer in layers], -1)
        return [states_BTDL @ scores_L.softmax(-1) for scores_L in weights["layer_map"]]

    def _pairs(self, networks: Networks) -> LayerPairs:
        return layer_pairs(self.layers, networks, lowest=0)
