"""Matching of the direction of embeddings, by the cosine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from hf_finetune.distillation.networks import Networks
from hf_finetune.distillation.weight_schedules import Weight
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    import torch

    from hf_finetune.distillation.features import Features, RequiredFeatures


@configclass
class Embedding:
    """The direction of a row's embedding, by the cosine; projected where the widths differ."""

    pooling: Literal["mean", "cls"] = "mean"
    """What stands for a row: the mean of its last states, or that of the first token."""
    weight: Weight = 0.5
    """How much it counts; Ramp(start, end) changes it over the training."""

    compares_rows: ClassVar[bool] = False

    def required(self, networks: Networks) -> tuple[RequiredFeatures, RequiredFeatures]:
        """Return what the loss needs of the student, and of the teacher.

        Raises:
            InputError: one of the two does not have it.
        """
        from hf_finetune.distillation.features import required_embeddings

        return required_embeddings(self, self.pooling, networks)

    def initial_weights(self, networks: Networks, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Return a projection where the widths differ."""
        from hf_finetune.distillation.losses.functional import embedding_projection

        return embedding_projection(networks, generator)

    def __call__(
        self, student: Features, teacher: Features, networks: Networks, weights: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Compute 1 minus the cosine of each row's embeddings (B,): 0 where they point the same way, 2 at most."""
        from torch.nn import functional as F

        from hf_finetune.distillation.losses.functional import project
        from hf_finetune.training.losses.contrastive import at_least_float32

        own_BD = project(student.pooled[self.pooling], weights.get("projection"))
        teacher_BD = teacher.pooled[self.pooling]
        return 1 - F.cosine_similarity(at_least_float32(own_BD), at_least_float32(teacher_BD), dim=-1)
