"""From the insides of a student and its teacher to what each row costs, with the weights that it takes to compare them.

Those are the student's projections onto the teacher's width, and the weights of a learned layer map. They train with the
student, by its optimiser, and are of no use after: checkpoints hold them, the saved model does not.

Legend: B rows, T tokens, D width, S the student's width, L layers, P pairs of layers.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig

from hf_finetune.distillation import representation_losses as losses
from hf_finetune.distillation.hidden_states import PROJECTIONS, States, Wanted
from hf_finetune.distillation.representation_config import (
    AttentionMaps,
    AttentionRelations,
    Contrastive,
    Embedding,
    HiddenStates,
    OfRows,
    Pairs,
    RelationalKD,
    RepresentationKind,
)
from hf_finetune.errors import InputError
from hf_finetune.models.heads.pooling import width_of
from hf_finetune.training.losses.contrastive import contrastive

Configs = tuple[PreTrainedConfig, PreTrainedConfig]
"""Of the student, and of the teacher."""


def wanted(kind: RepresentationKind, configs: Configs) -> tuple[Wanted, Wanted]:
    """What a kind takes of the student, and of the teacher; of all layers where they are still to be searched.

    Raises:
        InputError: one of them does not have it, or not so many layers.
    """
    _refuse_families(kind, configs)
    match kind:
        case AttentionMaps(layers="searched"):
            student, teacher = (frozenset(range(1, config.num_hidden_layers + 1)) for config in configs)
            return Wanted(attention=student), Wanted(attention=teacher)
        case HiddenStates(layers=layers):
            if layers != "searched":
                pairs_of(layers, configs, lowest=0)
            return Wanted(hidden=True), Wanted(hidden=True)
        case AttentionMaps(layers=layers):
            return _attention_of(pairs_of(layers, configs, lowest=1))
        case AttentionRelations():
            _relation_heads(kind, configs)
            return _attention_of(_last_pair(kind, configs))
        case _:
            pooled = Wanted(poolings=frozenset({kind.pooling}))
            return pooled, pooled


def teachers_hidden(kind: RepresentationKind, configs: Configs) -> frozenset[int]:
    """The layers after which a kind compares the teacher's states, 0 the embeddings."""
    if not isinstance(kind, HiddenStates):
        return frozenset()
    if kind.layers == "learned":
        return frozenset(range(1, configs[1].num_hidden_layers + 1))
    return frozenset(theirs for _, theirs in pairs_of(kind.layers, configs, lowest=0))


def _refuse_families(kind: RepresentationKind, configs: Configs) -> None:
    some = Wanted(
        hidden=isinstance(kind, HiddenStates),
        attention=frozenset({1}) if isinstance(kind, AttentionMaps | AttentionRelations) else frozenset(),
        poolings=frozenset({kind.pooling}) if isinstance(kind, OfRows) else frozenset(),
    )
    for config, who in zip(configs, ("student", "teacher"), strict=True):
        try:
            some.refuse(config, maps=isinstance(kind, AttentionMaps))
        except InputError as error:
            raise InputError(f"{type(kind).__name__} of the {who}: {error}") from error


def _attention_of(pairs: Pairs) -> tuple[Wanted, Wanted]:
    student, teacher = (frozenset(side) for side in zip(*pairs, strict=True))
    return Wanted(attention=student), Wanted(attention=teacher)


def _last_pair(kind: AttentionRelations, configs: Configs) -> Pairs:
    student, teacher = (config.num_hidden_layers for config in configs)
    return pairs_of(((student, kind.teacher_layer or teacher),), configs, lowest=1)


def pairs_of(
    layers: Literal["uniform", "last", "learned", "searched"] | Pairs, configs: Configs, *, lowest: int
) -> Pairs:
    """Layers (student's, teacher's) that go together, counted from 1; 0 are the embeddings. learned: as uniform.

    Args:
        lowest: the first that there is.

    Raises:
        InputError: a pair of a layer that there is not.
    """
    assert layers != "searched", "they are found before training, see teacher_states.with_layers"
    student, teacher = (config.num_hidden_layers for config in configs)
    if layers == "last":
        return ((student, teacher),)
    if isinstance(layers, str):
        # Rounded up: every layer of the student has one, the last the last.
        return tuple((layer, -(-layer * teacher // student)) for layer in range(1, student + 1))
    for pair in layers:
        for number, most, who in zip(pair, (student, teacher), ("student", "teacher"), strict=True):
            if not lowest <= number <= most:
                raise InputError(f"the {who} has the layers {lowest} to {most}, not {number} (of the pair {pair})")
    return layers


def _relation_heads(kind: AttentionRelations, configs: Configs) -> int:
    heads = kind.relation_heads or configs[0].num_attention_heads
    for config, who in zip(configs, ("student", "teacher"), strict=True):
        if config.hidden_size % heads:
            raise InputError(
                f"AttentionRelations.relation_heads: expected a divisor of the {who}'s width {config.hidden_size}, got {heads}"
            )
    return heads


class Projection(nn.Module):
    """A linear map onto the teacher's width, without a bias: (..., S) -> (..., D) in float32.

    It begins as the identity where the widths are the same, as for a student that was cut out of its teacher; else with
    normal weights that keep the size of what they are given.

    Args:
        configs: S and D are their widths.
        generator: of the first weights.
    """

    def __init__(self, configs: Configs, generator: torch.Generator) -> None:
        super().__init__()
        student, teacher = map(width_of, configs)
        drawn = torch.randn(teacher, student, generator=generator) / math.sqrt(student)
        self.weight = nn.Parameter(torch.eye(student) if student == teacher else drawn)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return F.linear(x.float(), self.weight)


class OfHiddenStates(nn.Module):
    """See `HiddenStates`."""

    def __init__(self, kind: HiddenStates, configs: Configs, generator: torch.Generator) -> None:
        super().__init__()
        self.pairs = pairs_of(kind.layers, configs, lowest=0)
        self.projections = nn.ModuleList(Projection(configs, generator) for _ in self.pairs)
        self.map_PL: nn.Parameter | None = None
        if kind.layers == "learned":
            # Of all the teacher's layers alike at first.
            self.map_PL = nn.Parameter(torch.zeros(len(self.pairs), configs[1].num_hidden_layers))

    def forward(self, _: HiddenStates, student: States, teacher: States) -> torch.Tensor:
        """Shape (B,)."""
        found = [
            losses.hidden_states(project(student.hidden[own]), self._target(pair, teacher), student.mask_BT)
            for pair, ((own, _), project) in enumerate(zip(self.pairs, self.projections, strict=True))
        ]
        return torch.stack(found).mean(0)

    def _target(self, pair: int, teacher: States) -> torch.Tensor:
        if self.map_PL is None:
            return teacher.hidden[self.pairs[pair][1]]
        states_BTDL = torch.stack([teacher.hidden[layer + 1].float() for layer in range(self.map_PL.shape[1])], -1)
        return states_BTDL @ self.map_PL[pair].softmax(-1)


class OfAttentionMaps(nn.Module):
    """See `AttentionMaps`."""

    def __init__(self, kind: AttentionMaps, configs: Configs) -> None:
        super().__init__()
        self.pairs = pairs_of(kind.layers, configs, lowest=1)
        self.heads = tuple(config.num_attention_heads for config in configs)

    def forward(self, kind: AttentionMaps, student: States, teacher: States) -> torch.Tensor:
        """Shape (B,)."""
        found = []
        for pair in self.pairs:
            maps = [
                losses.log_attention(of.attention[layer]["query"], of.attention[layer]["key"], of.mask_BT, heads=heads)
                for of, layer, heads in zip((student, teacher), pair, self.heads, strict=True)
            ]
            if self.heads[0] != self.heads[1]:
                maps = [losses.mean_over_heads(log_BHTT) for log_BHTT in maps]
            found.append(losses.ATTENTION[kind.form](*maps, student.mask_BT))
        return torch.stack(found).mean(0)


class OfAttentionRelations(nn.Module):
    """See `AttentionRelations`."""

    def __init__(self, kind: AttentionRelations, configs: Configs) -> None:
        super().__init__()
        self.heads, (self.layers,) = _relation_heads(kind, configs), _last_pair(kind, configs)

    def forward(self, _: AttentionRelations, student: States, teacher: States) -> torch.Tensor:
        """Shape (B,)."""
        sides = [(of.attention[layer], of.mask_BT) for of, layer in zip((student, teacher), self.layers, strict=True)]
        found = [
            losses.attention_kl(
                *(losses.log_attention(of[name], of[name], mask_BT, heads=self.heads) for of, mask_BT in sides),
                student.mask_BT,
            )
            for name in PROJECTIONS
        ]
        return torch.stack(found).sum(0)


class OfEmbeddings(nn.Module):
    """See `Embedding`, `RelationalKD` and `Contrastive`."""

    def __init__(self, kind: OfRows, configs: Configs, generator: torch.Generator) -> None:
        super().__init__()
        widths = [width_of(config) for config in configs]
        needed = widths[0] != widths[1] and not isinstance(kind, RelationalKD)
        self.project = Projection(configs, generator) if needed else nn.Identity()

    def forward(self, kind: OfRows, student: States, teacher: States) -> torch.Tensor:
        """Shape (B,)."""
        own_BD, teachers_BD = self.project(student.pooled[kind.pooling]), teacher.pooled[kind.pooling]
        match kind:
            case Embedding():
                return losses.cosine(own_BD, teachers_BD)
            case RelationalKD():
                return kind.distance * losses.relational_distance(
                    own_BD, teachers_BD
                ) + kind.angle * losses.relational_angle(own_BD, teachers_BD)
            case Contrastive():
                return contrastive(own_BD, teachers_BD, temperature=kind.temperature)


def comparison(kind: RepresentationKind, configs: Configs, generator: torch.Generator) -> nn.Module:
    """What is called as `(kind as it is now, student's states, teacher's states) -> loss of each row (B,)`.

    Args:
        generator: of first weights.
    """
    match kind:
        case HiddenStates():
            return OfHiddenStates(kind, configs, generator)
        case AttentionMaps():
            return OfAttentionMaps(kind, configs)
        case AttentionRelations():
            return OfAttentionRelations(kind, configs)
        case _:
            return OfEmbeddings(kind, configs, generator)
