"""Surgery on how convolutional networks pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from hf_finetune.models.families import FAMILIES
from hf_finetune.models.surgery.rebuild import Operation
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@configclass
class SetPooling(Operation):
    """Change how a convolutional network pools. No weight changes, but what the network computes does."""

    kind: Literal["mean", "max"] | None = None
    """EfficientNet: what its head reads of every feature map. None: as it is."""
    size: int | None = None
    """PoolFormer: side of the window whose mean its layers mix, an odd number. None: as it is."""

    def update_config(self, config: PreTrainedConfig) -> None:
        """Write the new pooling to `config`.

        Raises:
            InputError: the family's config has no such field, or nothing is set.
        """
        fields = {"pooling_type": ("kind", self.kind), "pool_size": ("size", self.size)}
        if self.kind is None and self.size is None:
            raise self.refusal("expected kind (efficientnet) or size (poolformer)")
        if self.size is not None and (self.size < 3 or self.size % 2 == 0):
            raise self.refusal(f"size: expected an odd number from 3, got {self.size}")
        for field, (option, value) in fields.items():
            if value is None:
                continue
            if config.model_type not in FAMILIES or field not in config.to_dict():
                why = "is not in its config, so plain transformers could not load the result"
                remedy = "use kind with an efficientnet, size with a poolformer checkpoint"
                raise self.refusal(f"{option}: pooling of {config.model_type} {why}; {remedy}")
            setattr(config, field, value)
