"""What a recipe can ask of a student's inside: operations, cheap to import; `distillation.representations` compares.

The first three look at tokens, and so need a teacher that reads the very same ones: a tokenizer with the same pieces, or
pictures cut into as many patches. The others look at one vector a row, and need nothing of the kind. No label is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeGuard

from hf_finetune.distillation.weight_schedules import Number

Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class HiddenStates:
    """The state of every token after a layer, projected onto the teacher's width, by the squared difference
    (FitNets, arXiv:1412.6550; TinyBERT, arXiv:1909.10351)."""

    layers: Literal["uniform", "last", "learned", "searched"] | Pairs = "uniform"
    """Which layers go together. uniform: each of the student's with one of the teacher's, spread evenly, the last with the
    last; last: the last two alone; learned: each of the student's with a weighted mean of all of the teacher's, whose weights
    train (a softmax, as in arXiv:2012.14022); searched: before training, each of the student's with one of the teacher's in
    their order, the last with the last, so that their states of some training rows are as alike as can be (linear CKA,
    arXiv:1905.00414); or pairs (student's, teacher's), counted from 1, 0 the embeddings."""
    weight: Number = 0.5
    """How much the mean over the pairs counts; Ramp(start, end) changes it over the training."""


@dataclass(frozen=True)
class AttentionMaps:
    """How much each token attends to each other one, head by head (arXiv:1909.10351, arXiv:2002.10957).

    Where the two networks have other numbers of heads, by the mean over each one's heads. Without dropout's noise."""

    layers: Literal["uniform", "last", "searched"] | Pairs = "uniform"
    """Which layers go together, see HiddenStates; searched: by the divergence of the heads' mean attention; pairs count from
    1."""
    form: Literal["kl", "mse"] = "kl"
    """kl: divergence from the teacher's attention; mse: squared difference of the probabilities."""
    weight: Number = 0.5
    """How much the mean over the pairs counts; Ramp(start, end) changes it over the training."""


@dataclass(frozen=True)
class AttentionRelations:
    """How alike a layer's queries are among themselves, its keys and its values, token by token (MiniLMv2,
    arXiv:2012.15828): for networks of any width and any number of heads."""

    teacher_layer: int | None = None
    """The teacher's layer that the student's last one follows, counted from 1. None: the last; of 24 layers the paper takes
    the 21st."""
    relation_heads: int | None = None
    """Heads that the queries, keys and values are cut into anew, in both networks. None: as many as the student has; more
    tell more (the paper takes 48)."""
    weight: Number = 0.5
    """How much the sum of the three counts; Ramp(start, end) changes it over the training."""


@dataclass(frozen=True)
class Embedding:
    """The direction of a row's embedding, by the cosine; projected where the widths differ."""

    pooling: Literal["mean", "cls"] = "mean"
    """What stands for a row: the mean of its last states, or that of the first token."""
    weight: Number = 0.5
    """How much it counts; Ramp(start, end) changes it over the training."""


@dataclass(frozen=True)
class RelationalKD:
    """How the embeddings of a forward pass lie to one another: distances, and angles between three of them (RKD,
    arXiv:1904.05068).

    A row's part depends on the rows beside it: on the size of a forward pass, on accumulation and processes."""

    distance: float = 1.0
    """Weight of the distances within it."""
    angle: float = 2.0
    """Weight of the angles within it."""
    pooling: Literal["mean", "cls"] = "mean"
    """See Embedding."""
    weight: Number = 0.5
    """How much it counts; Ramp(start, end) changes it over the training."""


@dataclass(frozen=True)
class Contrastive:
    """Which of a forward pass's rows an embedding belongs to: the student's is to be nearest to the teacher's of the same row
    (InfoNCE, as in CRD, arXiv:1910.10699); projected where the widths differ.

    A row's part depends on the rows beside it: on the size of a forward pass, on accumulation and processes."""

    temperature: Number = 0.1
    """Divides the cosines: the lower, the more the nearest wrong rows count. Ramp(start, end) changes it over the training."""
    pooling: Literal["mean", "cls"] = "mean"
    """See Embedding."""
    weight: Number = 0.1
    """How much it counts; Ramp(start, end) changes it over the training."""


OfTokens = HiddenStates | AttentionMaps | AttentionRelations
OfRows = Embedding | RelationalKD | Contrastive
OfBatches = RelationalKD | Contrastive
RepresentationKind = OfTokens | OfRows


def is_searched(kind: object) -> TypeGuard[HiddenStates | AttentionMaps]:
    """Whether which layers go together is told by the two networks before training, see `distillation.layer_search`."""
    return isinstance(kind, HiddenStates | AttentionMaps) and kind.layers == "searched"
