"""Surgery on the pooling of convolutional networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from hf_finetune.models.families import FAMILIES
from hf_finetune.models.surgery.rebuild import Operation
from hf_finetune.utils.config import configclass
from hf_finetune.utils.config_errors import Check

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

WindowSize = Annotated[int, Check(lambda n: n >= 3 and n % 2 == 1, "an odd number from 3 on")]


@configclass
class SetPooling(Operation):
    """Change how a convolutional network pools. No weight changes, but the outputs do."""

    kind: Literal["mean", "max"] | None = None
    """EfficientNet: pooling of every feature map before the head. None: as it is."""
    size: WindowSize | None = None
    """PoolFormer: side of the window that its layers average over, an odd number. None: as it is."""

    def update_config(self, config: PreTrainedConfig) -> None:
        """Set the pooling in `config`.

        Raises:
            InputError: no field is set, or the family's config has no such field.
        """
        options = {name: value for name, value in (("kind", self.kind), ("size", self.size)) if value is not None}
        if not options:
            raise self.refusal("expected kind (efficientnet) or size (poolformer)")
        for option, value in options.items():
            field = {"kind": "pooling_type", "size": "pool_size"}[option]
            if config.model_type not in FAMILIES or field not in config.to_dict():
                why = "is not in its config, so plain transformers could not load the result"
                remedy = "use kind with an efficientnet, size with a poolformer checkpoint"
                raise self.refusal(f"{option}: pooling of {config.model_type} {why}; {remedy}")
            setattr(config, field, value)
