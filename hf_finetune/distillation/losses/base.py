"""The features of a student and of its teacher that losses compare: cheap to import.

Legend: B rows, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from hf_finetune.errors import InputError
from hf_finetune.models.families import FAMILIES, names_where

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig

Pooling: TypeAlias = Literal["mean", "cls"]
LayerPairs: TypeAlias = tuple[tuple[int, int], ...]
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
        for role, config in self._asdict().items():
            if config.model_type not in families:
                known, name = ", ".join(families), type(kind).__name__
                raise InputError(f"{name} of the {role}: {feature} in {known}, not in {config.model_type}")


@dataclass(frozen=True)
class RequiredFeatures:
    """The features that losses need of one network."""

    hidden: frozenset[int] = frozenset()
    """The layers, counted from 1, after which the states of all tokens; 0: the embeddings."""
    attention: frozenset[int] = frozenset()
    """The layers, counted from 1, whose queries, keys and values."""
    poolings: frozenset[Pooling] = frozenset()
    """Embeddings of the rows."""

    def __or__(self, other: RequiredFeatures) -> RequiredFeatures:
        """Return the features that either needs."""
        return RequiredFeatures(
            self.hidden | other.hidden, self.attention | other.attention, self.poolings | other.poolings
        )

    @property
    def of_tokens(self) -> RequiredFeatures:
        """Those of tokens, without the embeddings."""
        return RequiredFeatures(self.hidden, self.attention)


Required: TypeAlias = tuple[RequiredFeatures, RequiredFeatures]
"""Of the student, and of the teacher."""


@dataclass
class Features:
    """The features of one forward pass."""

    mask_BT: Tensor | None = None
    """0 for padding; None: there is none."""
    hidden: dict[int, Tensor] = field(default_factory=dict)
    """Shape (B, T, D) after each layer, counted from 1; 0: of the embeddings."""
    attention: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    """`query`, `key` and `value` (B, T, D) by layer, counted from 1, all heads side by side."""
    pooled: dict[Pooling, Tensor] = field(default_factory=dict)
    """Embeddings of the rows (B, D)."""


@dataclass(frozen=True)
class FeaturePair:
    """The features of a student and its teacher for the same rows, with the weights that it takes to compare them."""

    student: Features
    teacher: Features
    networks: Networks
    weights: Mapping[str, Tensor]
    """Those of the kind's `initial_weights`, as they are at this step."""

    @property
    def mask_BT(self) -> Tensor | None:
        """Of the student's tokens; the teacher reads the same ones."""
        return self.student.mask_BT

    def project(self, x: Tensor, name: str) -> Tensor:
        """Map the student's states onto the teacher's width, in float32, by the weights of this name."""
        from torch.nn import functional as F

        return F.linear(x.float(), self.weights[name])


def required_embeddings(kind: object, pooling: Pooling, networks: Networks) -> Required:
    """Return the same embeddings of the student and of the teacher.

    Args:
        kind: what compares them.

    Raises:
        InputError: one of the two has none.
    """
    pooled = names_where(lambda family: family.head is not None)
    networks.check_families(kind, pooled, "rows are read")
    if pooling == "cls":
        with_token = tuple(name for name in pooled if not FAMILIES[name].staged)
        networks.check_families(kind, with_token, "a first token stands for a row (pooling mean reads all of it)")
    required = RequiredFeatures(poolings=frozenset({pooling}))
    return required, required


def layer_pairs(layers: str | LayerPairs, networks: Networks, *, lowest: int) -> LayerPairs:
    """Return the pairs of layers that go together; of a learned map the student's are those of a uniform one.

    Args:
        layers: uniform, last, learned, or pairs.
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


def compared_layers(
    layers: str | LayerPairs, networks: Networks, *, lowest: int
) -> tuple[frozenset[int], frozenset[int]]:
    """Return the layers of the student that are compared, and of the teacher; all where they are to be searched.

    Args:
        layers, lowest: see `layer_pairs`.

    Raises:
        InputError: see `layer_pairs`.
    """
    every, teachers_every = (frozenset(range(1, count + 1)) for count in networks.layers)
    if layers == "searched":
        return every, teachers_every
    student, teacher = zip(*layer_pairs(layers, networks, lowest=lowest), strict=True)
    return frozenset(student), teachers_every if layers == "learned" else frozenset(teacher)
