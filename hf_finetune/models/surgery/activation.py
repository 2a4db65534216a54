"""Surgery on the activation of the feed-forward networks."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from hf_finetune.models.surgery.rebuild import check_plain_units, known_family, rebuilt, refusal, updated_config
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@configclass
class SetActivation:
    """Exchange the activation of the feed-forward networks, of ResNet and EfficientNet that of their layers. The weights
    stay, so the network has to get used to it."""

    activation: str
    """Its name in transformers: gelu, gelu_new, relu, silu, mish, quick_gelu and others."""

    def update_config(self, config: PreTrainedConfig) -> None:
        """Write the activation to `config`.

        Raises:
            InputError: there is no activation of this name, or the family's is fixed.
        """
        from transformers.activations import ACT2FN

        family = known_family(self, config)
        if self.activation not in ACT2FN:
            close = difflib.get_close_matches(self.activation, ACT2FN, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(ACT2FN)}"
            raise refusal(self, f"activation: {self.activation!r} is none of transformers'; {hint}")
        check_plain_units(self, config)
        setattr(config, family.activation, self.activation)

    def __call__(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model with this activation."""
        return rebuilt(model, updated_config(self, model))
