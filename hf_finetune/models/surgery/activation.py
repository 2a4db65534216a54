"""Surgery on the activation of the feed-forward networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.models.surgery.rebuild import Operation
from hf_finetune.utils.config import configclass
from hf_finetune.utils.messages import did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@configclass
class SetActivation(Operation):
    """Replace the activation of the feed-forward networks (ResNet, EfficientNet: of the layers). The weights stay, so
    the network has to adapt to it."""

    activation: str
    """Its name in transformers: gelu, gelu_new, relu, silu, mish, quick_gelu and others."""

    def update_config(self, config: PreTrainedConfig) -> None:
        """Set the activation in `config`.

        Raises:
            InputError: transformers has no such activation, or the family's is fixed.
        """
        from transformers.activations import ACT2FN

        family = self.family(config)
        if self.activation not in ACT2FN:
            hint = did_you_mean(self.activation, ACT2FN) or f"; known: {', '.join(ACT2FN)}"
            raise self.refusal(f"activation: {self.activation!r} is none of transformers'{hint}")
        self.check_no_swiglu(config)
        setattr(config, family.activation, self.activation)
