"""Losses between pairs of layers, one of the student and one of the teacher: cheap to import."""

from abc import abstractmethod
from typing import ClassVar, TypeAlias

from hf_finetune.distillation.losses.base import Networks, Required, RequiredFeatures, TokenLoss
from hf_finetune.errors import InputError

LayerPairs: TypeAlias = tuple[tuple[int, int], ...]
"""Layers (student's, teacher's), counted from 1; 0: the embeddings."""


class LayerwiseLoss(TokenLoss):
    """A token loss that is the mean over pairs of layers."""

    layers: str | LayerPairs
    """uniform, last, learned, searched, or the pairs themselves."""
    lowest_layer: ClassVar[int]
    """0 where the embeddings count as a layer, else 1."""

    @abstractmethod
    def features_of(self, layers: frozenset[int]) -> RequiredFeatures:
        """Return the features that are compared in these layers of a network."""

    def required(self, networks: Networks) -> Required:
        """Return the features of the layers that are compared; of all layers where the pairs are to be searched.

        Raises:
            InputError: a network does not have them.
        """
        networks.check_families(self, self.families, self.requirement)
        student, teacher = (frozenset(range(1, count + 1)) for count in networks.num_layers)
        if self.layers != "searched":
            pairs = layer_pairs(self.layers, networks, lowest=self.lowest_layer)
            student = frozenset(pair[0] for pair in pairs)
            if self.layers != "learned":
                teacher = frozenset(pair[1] for pair in pairs)
        return self.features_of(student), self.features_of(teacher)


def layer_pairs(layers: str | LayerPairs, networks: Networks, *, lowest: int) -> LayerPairs:
    """Return the pairs of layers that are compared; for a learned map the student's layers are those of a uniform one.

    Args:
        layers: uniform, last, learned, or the pairs themselves.
        lowest: number of the first layer: 0 where the embeddings count as one.

    Raises:
        InputError: a pair names a layer that a network does not have.
    """
    assert layers != "searched", "they are searched before training, see layer_search.with_layers"
    student, teacher = networks.num_layers
    if layers == "last":
        return ((student, teacher),)
    if isinstance(layers, str):
        # Rounded up: every layer of the student has one of the teacher's, and the last has the last.
        return tuple((layer, -(-layer * teacher // student)) for layer in range(1, student + 1))
    for pair in layers:
        for number, highest, role in zip(pair, networks.num_layers, networks._fields, strict=True):
            if not lowest <= number <= highest:
                raise InputError(f"the {role} has the layers {lowest} to {highest}, not {number} (of the pair {pair})")
    return layers
