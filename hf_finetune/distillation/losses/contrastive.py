"""Contrastive distillation of embeddings (InfoNCE, as in CRD, arXiv:1910.10699)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from hf_finetune.distillation.networks import Networks
from hf_finetune.distillation.weight_schedules import Temperature, Weight, constant
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    import torch

    from hf_finetune.distillation.features import Features, RequiredFeatures


@configclass
class Contrastive:
    """Which of a forward pass's rows an embedding belongs to: the student's is to be nearest to the teacher's of the same row
    (InfoNCE, as in CRD, arXiv:1910.10699); projected where the widths differ.

    A row's part depends on the rows beside it: on the size of a forward pass, on accumulation and processes."""

    temperature: Temperature = 0.1
    """Divides the cosines: the lower, the more the nearest wrong rows count. Ramp(start, end) changes it over the training."""
    pooling: Literal["mean", "cls"] = "mean"
    """See Embedding."""
    weight: Weight = 0.1
    """How much it counts; Ramp(start, end) changes it over the training."""

    compares_rows: ClassVar[bool] = True

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
        """Compute the cross-entropy of finding each row's embedding (B,) among the teacher's of the forward pass."""
        from hf_finetune.distillation.losses.functional import project
        from hf_finetune.training.losses.contrastive import contrastive

        own_BD = project(student.pooled[self.pooling], weights.get("projection"))
        return contrastive(own_BD, teacher.pooled[self.pooling], temperature=constant(self.temperature))
