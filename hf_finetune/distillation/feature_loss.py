"""The loss between the features of a student and its teacher, with the weights that it takes to compare them.

Those are the student's projections onto the teacher's width, and the scores of a learned layer map. They train with the
student, by its optimizer, and are of no use after: checkpoints hold them, the saved model does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from hf_finetune.distillation.config import EmbeddingKind, FeatureKind
from hf_finetune.distillation.losses.base import (
    FeaturePair,
    Features,
    Networks,
    Pooling,
    Required,
    RequiredFeatures,
    required_embeddings,
)
from hf_finetune.distillation.losses.functional import initial_projection
from hf_finetune.distillation.training_rows import ColumnsOfViews, TeacherColumns, embedding_column
from hf_finetune.distillation.weight_schedules import settled
from hf_finetune.models.families import width_of
from hf_finetune.utils.timer import Timer

PROJECTION = "projection"
"""Name of the weights that map the student's embeddings onto the teacher's width."""


def required_features(kind: FeatureKind, networks: Networks) -> Required:
    """Return the features that a kind needs of the student, and of the teacher.

    Raises:
        InputError: one of the two does not have them.
    """
    if isinstance(kind, EmbeddingKind):
        return required_embeddings(kind, kind.pooling, networks)
    return kind.required(networks)


class FeatureLoss(nn.Module):
    """Loss of one kind between two networks.

    Args:
        kind: with the pairs of layers that were searched for it.
        networks: the student and its teacher.
        generator: of the first weights.
    """

    def __init__(self, kind: FeatureKind, networks: Networks, generator: torch.Generator) -> None:
        super().__init__()
        self.kind, self.networks = kind, networks
        if isinstance(kind, EmbeddingKind):
            needed = kind.compares_features and width_of(networks.student) != width_of(networks.teacher)
            weights = {PROJECTION: initial_projection(networks, generator)} if needed else {}
        else:
            weights = kind.initial_weights(networks, generator)
        # As items: of a dict it would sort the names, and the optimizer sum up in another order.
        self.weights = nn.ParameterDict(weights.items())

    def forward(self, student: Features, teacher: Features, progress: float) -> torch.Tensor:
        """Compute the loss of each row (B,), without the kind's weight.

        Args:
            progress: share of the training's steps that were taken before.
        """
        kind = settled(self.kind, progress)
        pair = FeaturePair(student, teacher, self.networks, dict(self.weights.items()))
        if not isinstance(kind, EmbeddingKind):
            return kind(pair)
        own_BD = student.pooled[kind.pooling]
        return kind(pair.project(own_BD, PROJECTION) if pair.weights else own_BD, teacher.pooled[kind.pooling])


@dataclass(frozen=True)
class FeatureDistillation:
    """How the features of a student are compared with its teacher's."""

    required: RequiredFeatures
    """The student's."""
    poolings: frozenset[Pooling]
    """The embeddings that are compared."""
    losses: Mapping[int, FeatureLoss]
    """See `DistillationLoss.feature_losses`; their weights train with the student's."""
    tokens: Callable[[dict[str, Any]], Features]
    """From a batch, as the student gets it, to the teacher's features of its tokens."""
    columns: TeacherColumns | ColumnsOfViews
    """The teacher's features that are cached, see `DistillationRows`; of online augmentation, what computes them of
    views."""
    skip: int = 0
    """See `feature_recorder.FeatureRecorder`."""
    timer: Timer = field(default_factory=Timer)
    """Of the teacher's part of the training."""

    def of_teacher(self, batch: dict[str, Any]) -> Features:
        """Return the teacher's features of a batch; its embeddings are columns of it."""
        with self.timer:
            features = self.tokens(batch)
            features.pooled = {pooling: batch[embedding_column(pooling)] for pooling in self.poolings}
        return features
