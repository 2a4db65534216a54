"""Surgery on the attention kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from hf_finetune.models.surgery.rebuild import Operation
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@configclass
class SetAttention(Operation):
    """Choose the attention kernel, as `model.attn_implementation` does. A saved model does not remember it."""

    implementation: Literal["eager", "sdpa"]
    """eager: plain matrix products; sdpa: torch's fused kernel."""

    def update_config(self, config: PreTrainedConfig) -> None:
        """Set the kernel in `config`.

        Raises:
            InputError: the family has no sdpa attention.
        """
        from transformers import MODEL_MAPPING

        model_class: Any = MODEL_MAPPING[type(config)]
        if self.implementation == "sdpa" and not model_class._supports_sdpa:
            raise self.refusal(f"{config.model_type} has no sdpa attention; expected eager")
        config._attn_implementation = self.implementation

    def __call__(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the same model, with this kernel."""
        model.set_attn_implementation(self.implementation)
        return model
