"""Matching of the direction of embeddings, by the cosine."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hf_finetune.distillation.features import FeaturePair, Networks, Pooling, Required, required_embeddings
from hf_finetune.distillation.weight_schedules import Weight
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    from torch import Generator, Tensor


@configclass
class Embedding:
    """The direction of a row's embedding, by the cosine; projected where the widths differ."""

    pooling: Pooling = "mean"
    """What stands for a row: the mean of its last states, or that of the first token."""
    weight: Weight = 0.5
    """How much it counts; Ramp(start, end) changes it over the training."""

    compares_rows: ClassVar[bool] = False

    def required(self, networks: Networks) -> Required:
        """Return the features that it needs of the student, and of the teacher.

        Raises:
            InputError: one of the two does not have them.
        """
        return required_embeddings(self, self.pooling, networks)

    def initial_weights(self, networks: Networks, generator: Generator) -> dict[str, Tensor]:
        """Return a projection where the widths differ."""
        from hf_finetune.distillation.losses.functional import embedding_projection

        return embedding_projection(networks, generator)

    def __call__(self, pair: FeaturePair) -> Tensor:
        """Compute 1 minus the cosine of each row's embeddings (B,): 0 where they point the same way, 2 at most."""
        from torch.nn import functional as F

        from hf_finetune.training.losses.contrastive import at_least_float32

        own_BD, other_BD = map(at_least_float32, pair.embeddings(self.pooling))
        return 1 - F.cosine_similarity(own_BD, other_BD, dim=-1)
