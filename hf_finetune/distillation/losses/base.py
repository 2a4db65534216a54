"""The contract of distillation losses, and the features that they compare. Cheap to import.

To add a loss, subclass `LogitLoss`, `EmbeddingLoss` or `TokenLoss` in a module beside this one, and name the class in
its union in `distillation.config`.

Legend: B rows, C classes, T tokens, D width.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, TypeAlias

from hf_finetune.data.config import Activation
from hf_finetune.distillation.weight_schedules import Weight
from hf_finetune.errors import InputError
from hf_finetune.models.families import FAMILIES, names_where, width_of

if TYPE_CHECKING:
    from torch import Generator, Tensor
    from transformers import PreTrainedConfig

Pooling: TypeAlias = Literal["mean", "cls"]

POOLED = names_where(lambda family: family.head is not None)
WITH_FIRST_TOKEN = tuple(name for name in POOLED if not FAMILIES[name].staged)
PROJECTION = "projection"


class Networks(NamedTuple):
    """The configs of a student and of its teacher."""

    student: PreTrainedConfig
    teacher: PreTrainedConfig

    @property
    def num_layers(self) -> tuple[int, int]:
        """Layers of each network."""
        return self.student.num_hidden_layers, self.teacher.num_hidden_layers

    @property
    def num_heads(self) -> tuple[int, int]:
        """Attention heads of each network."""
        return self.student.num_attention_heads, self.teacher.num_attention_heads

    def initial_projection(self, generator: Generator) -> Tensor:
        """Draw a projection (teacher's width, student's width) of the student's states.

        For equal widths it is the identity, which suits a student made of layers of its teacher. For other widths it is
        normal, with a variance that keeps the size of the states.
        """
        import torch

        student, teacher = map(width_of, self)
        drawn = torch.randn(teacher, student, generator=generator) / math.sqrt(student)
        return torch.eye(student) if student == teacher else drawn

    def check_families(self, loss: object, families: tuple[str, ...], requirement: str) -> None:
        """Refuse a network of another family.

        Args:
            loss: the loss that compares the two networks.
            families: model types that have the features.
            requirement: first part of the message, such as "rows are pooled", before "in bert, ...".

        Raises:
            InputError: naming the families.
        """
        for role, config in self._asdict().items():
            if config.model_type not in families:
                known, name = ", ".join(families), type(loss).__name__
                raise InputError(f"{name} of the {role}: {requirement} in {known}, not in {config.model_type}")


@dataclass(frozen=True)
class RequiredFeatures:
    """The features that losses need of one network."""

    hidden: frozenset[int] = frozenset()
    """Layers whose hidden states are compared, counted from 1. 0 stands for the embeddings."""
    attention: frozenset[int] = frozenset()
    """Layers whose queries, keys and values are compared, counted from 1."""
    poolings: frozenset[Pooling] = frozenset()
    """Poolings of the last hidden states into an embedding of each row."""
    skipped_tokens: int = 0
    """Leading tokens without hidden states or attention here: those before an image's patches."""

    def __or__(self, other: RequiredFeatures) -> RequiredFeatures:
        """Return the features that either needs."""
        return RequiredFeatures(
            self.hidden | other.hidden, self.attention | other.attention, self.poolings | other.poolings
        )

    @property
    def has_tokens(self) -> bool:
        """Whether features of single tokens are among them."""
        return bool(self.hidden or self.attention)


Required: TypeAlias = tuple[RequiredFeatures, RequiredFeatures]
"""Features of the student, and of the teacher."""


@dataclass
class Features:
    """The features of one forward pass."""

    mask_BT: Tensor | None = None
    """0 for padding. None: no padding."""
    hidden: dict[int, Tensor] = field(default_factory=dict)
    """Hidden states (B, T, D) by layer, counted from 1. 0 stands for the embeddings."""
    attention: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    """`query`, `key` and `value` (B, T, D) by layer, counted from 1, all heads side by side."""
    pooled: dict[Pooling, Tensor] = field(default_factory=dict)
    """Embeddings of the rows (B, D)."""


@dataclass(frozen=True)
class FeaturePair:
    """The features of a student and its teacher for the same rows, with the weights of the loss."""

    student: Features
    teacher: Features
    networks: Networks
    weights: Mapping[str, Tensor]
    """The current values of `FeatureLoss.initial_weights`."""

    @property
    def mask_BT(self) -> Tensor | None:
        """0 for padding. The two networks read the same tokens."""
        return self.student.mask_BT

    def project(self, x: Tensor, name: str) -> Tensor:
        """Map the student's states onto the teacher's width, in float32, by the weights of this name."""
        from torch.nn import functional as F

        return F.linear(x.float(), self.weights[name])


class LogitLoss(ABC):
    """A loss between the logits of a student and its teacher."""

    weight: Weight
    """Factor of the loss in the sum of all losses."""
    needs_all_logits: ClassVar[bool] = False
    """Whether it depends on the exact logits of unlikely classes, see `distillation.cache.logits`."""
    refuses: ClassVar[Mapping[Activation, str]] = {
        "sigmoid": "it compares the classes of a row",
        "identity": "it compares the classes of a row",
    }
    """Kinds of predictions that it cannot compare beside classes, and why."""

    def of_outputs(self, student_BC: Tensor, teacher_BC: Tensor, activation: Activation) -> Tensor:
        """Compute the loss of each row (B,) of predictions other than classes, unless it `refuses` them.

        Args:
            student_BC: logits of tags, or numbers in units of the target's deviation.
            teacher_BC: those of the teacher.
        """
        raise NotImplementedError

    @abstractmethod
    def __call__(self, student_BC: Tensor, teacher_BC: Tensor, labels_B: Tensor) -> Tensor:
        """Compute the loss of each row (B,) of classes, in float32.

        Args:
            student_BC: logits of the data's classes, in their order.
            teacher_BC: logits of the same classes.
            labels_B: class indices; the teacher's prediction for a row without a label.
        """


class FeatureLoss(ABC):
    """A loss between intermediate features, with weights of its own that train with the student."""

    weight: Weight
    """Factor of the loss in the sum of all losses."""

    @abstractmethod
    def required(self, networks: Networks) -> Required:
        """Return the features that the loss needs of the student and of the teacher.

        Raises:
            InputError: a network does not have them.
        """

    def initial_weights(self, networks: Networks, generator: Generator) -> dict[str, Tensor]:
        """Return the initial values of the loss's own weights by name. By default it has none."""
        return {}

    @abstractmethod
    def __call__(self, pair: FeaturePair) -> Tensor:
        """Compute the loss of each row (B,)."""


class TokenLoss(FeatureLoss):
    """A loss that compares token by token.

    The teacher must read the same tokens as the student: texts through a tokenizer with the same tokens, or images cut
    into as many patches.
    """

    families: ClassVar[tuple[str, ...]]
    """Model types that have the features."""
    requirement: ClassVar[str]
    """See `Networks.check_families`."""


class EmbeddingLoss(FeatureLoss):
    """A loss between one embedding of each row by the student and by the teacher."""

    pooling: Pooling
    compares_rows: ClassVar[bool] = False
    """Whether the loss of a row depends on the other rows of its forward pass."""
    projects: ClassVar[bool] = True
    """Whether the student's embeddings are projected onto the teacher's width, where the two differ."""

    @abstractmethod
    def compare(self, student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
        """Compute the loss of each row (B,) between embeddings, of the same width if the loss projects."""

    def required(self, networks: Networks) -> Required:
        """Return the same embeddings of both networks.

        Raises:
            InputError: a network has none.
        """
        networks.check_families(self, POOLED, "rows are pooled")
        if self.pooling == "cls":
            networks.check_families(self, WITH_FIRST_TOKEN, "a first token stands for a row (else take pooling mean)")
        required = RequiredFeatures(poolings=frozenset({self.pooling}))
        return required, required

    def initial_weights(self, networks: Networks, generator: Generator) -> dict[str, Tensor]:
        """Return a projection where the loss needs one."""
        needed = self.projects and width_of(networks.student) != width_of(networks.teacher)
        return {PROJECTION: networks.initial_projection(generator)} if needed else {}

    def __call__(self, pair: FeaturePair) -> Tensor:
        """Compute the loss of each row (B,)."""
        student_BD = pair.student.pooled[self.pooling]
        if pair.weights:
            student_BD = pair.project(student_BD, PROJECTION)
        return self.compare(student_BD, pair.teacher.pooled[self.pooling])
