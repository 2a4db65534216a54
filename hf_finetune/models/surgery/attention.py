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
        if self.implementation == "sdpa" and not supports_sdpa(config):
            raise self.refusal(f"{config.model_type} has no sdpa attention; expected eager")
        config._attn_implementation = self.implementation

    def __call__(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the same model, with this kernel."""
        model.set_attn_implementation(self.implementation)
        return model


def supports_sdpa(config: PreTrainedConfig) -> bool:
    """Whether the family has sdpa attention; True for remote code, which is not known."""
    from transformers import MODEL_MAPPING

    model_class: Any = MODEL_MAPPING.get(type(config), None)
    return model_class is None or model_class._supports_sdpa
