"""A student and its teacher by their configs: what can be compared in them, and which of their layers go together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from hf_finetune.errors import InputError
from hf_finetune.models.families import names_where

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

LayerPairs = tuple[tuple[int, int], ...]
"""Layers (student's, teacher's), counted from 1; 0 are the embeddings."""

# Attention is the softmax of queries times keys, and nothing is added.
PLAIN_ATTENTION = names_where(lambda family: family.one_width and family.attention == "plain")
# Positions are added to the scores, but a layer has queries, keys and values.
PROJECTED_ATTENTION = names_where(lambda family: family.one_width and family.attention is not None)
# One layer after the other, all of one width.
UNIFORM_LAYERS = names_where(lambda family: family.one_width)


class Networks(NamedTuple):
    """The configs of a student and of its teacher."""

    student: PreTrainedConfig
    teacher: PreTrainedConfig

    @property
    def layers(self) -> tuple[int, int]:
        """How many layers each has."""
        return self.student.num_hidden_layers, self.teacher.num_hidden_layers

    @property
    def heads(self) -> tuple[int, int]:
        """How many attention heads each has."""
        return self.student.num_attention_heads, self.teacher.num_attention_heads

    def check_families(self, kind: object, families: tuple[str, ...], feature: str) -> None:
        """Refuse a network of another family.

        Args:
            kind: what compares the two.
            families: those that have the feature.
            feature: a sentence up to its "in".

        Raises:
            InputError: naming the families.
        """
        for config, role in zip(self, self._fields, strict=True):
            if config.model_type not in families:
                raise InputError(
                    f"{type(kind).__name__} of the {role}: {feature} in {', '.join(families)}, not in {config.model_type}"
                )


def layer_pairs(
    layers: Literal["uniform", "last", "learned", "searched"] | LayerPairs, networks: Networks, *, lowest: int
) -> LayerPairs:
    """Return the pairs of layers that go together; of a learned map the student's are those of a uniform one.

    Args:
        lowest: the first layer that there is: 0 where the embeddings count as one.

    Raises:
        InputError: a pair of a layer that there is not.
    """
    assert layers != "searched", "they are searched before training, see layer_search.with_layers"
    student, teacher = networks.layers
    if layers == "last":
        return ((student, teacher),)
    if isinstance(layers, str):
        # Rounded up: every layer of the student has one, the last the last.
        return tuple((layer, -(-layer * teacher // student)) for layer in range(1, student + 1))
    for pair in layers:
        for number, most, role in zip(pair, networks.layers, networks._fields, strict=True):
            if not lowest <= number <= most:
                raise InputError(f"the {role} has the layers {lowest} to {most}, not {number} (of the pair {pair})")
    return layers
