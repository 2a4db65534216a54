"""Surgery inside the layers: activation, dropout, attention kernel."""

from __future__ import annotations

import copy
import difflib
from typing import TYPE_CHECKING, Literal

from hf_finetune.models.families import family_of, refusal
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@configclass
class SetActivation:
    """Exchange the activation of the feed-forward networks, of ResNet and EfficientNet that of their layers. The weights
    stay, so the network has to get used to it."""

    activation: str
    """Its name in transformers: gelu, gelu_new, relu, silu, mish, quick_gelu and others."""

    def refuse(self, config: PreTrainedConfig) -> None:
        """Write the activation to `config`.

        Raises:
            InputError: there is no activation of this name, or the family's is fixed.
        """
        from transformers.activations import ACT2FN

        family = family_of(config, "SetActivation")
        if self.activation not in ACT2FN:
            close = difflib.get_close_matches(self.activation, ACT2FN, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(ACT2FN)}"
            raise refusal("SetActivation", f"activation: {self.activation!r} is none of transformers'; {hint}")
        check_plain_units(config, "SetActivation")
        setattr(config, family.activation, self.activation)

    def __call__(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model with this activation."""
        return _same_weights(model, self)


@configclass
class SetDropout:
    """Set dropout rates by site, or add dropout where the checkpoint has a rate of 0. None leaves a site as it is."""

    hidden: float | None = None
    """What attention and feed-forward networks add to the stream, and in most families the embeddings. Of efficientnet
    what its layers add: the rate beyond the highest one, growing from 0 at the lowest."""
    attention: float | None = None
    """Attention weights."""
    embeddings: float | None = None
    """The embeddings by themselves; for modernbert and dinov2."""
    classifier: float | None = None
    """What the classification layer reads; for bert, roberta, electra, distilbert, deberta, albert, modernbert and
    efficientnet."""

    def refuse(self, config: PreTrainedConfig) -> None:
        """Write the rates to `config`.

        Raises:
            InputError: no rate is given, one is no rate, or the family has no field for a site.
        """
        fields = family_of(config, "SetDropout").dropout
        rates = {"hidden": self.hidden, "attention": self.attention}
        rates |= {"embeddings": self.embeddings, "classifier": self.classifier}
        given = {site: rate for site, rate in rates.items() if rate is not None}
        if not given:
            raise refusal("SetDropout", f"expected a rate for one of {', '.join(rates)}, got none")
        for site, rate in given.items():
            if not 0 <= rate < 1:
                raise refusal("SetDropout", f"{site}: expected at least 0 and below 1, got {rate}")
            if site not in fields:
                known = f"it has {', '.join(fields)}" if fields else "it has no dropout"
                raise refusal("SetDropout", f"{site}: {config.model_type}'s config cannot say this rate; {known}")
            setattr(config, fields[site], rate)

    def __call__(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model with these rates."""
        return _same_weights(model, self)


@configclass
class SetAttention:
    """Choose the attention kernel, as `model.attn_implementation` does. It is no part of a saved model."""

    implementation: Literal["eager", "sdpa"]
    """eager: plain matrix products; sdpa: torch's fused kernel."""

    def refuse(self, config: PreTrainedConfig) -> None:
        """Write the choice to `config`.

        Raises:
            InputError: the family has no sdpa attention.
        """
        from transformers import MODEL_MAPPING

        if self.implementation == "sdpa" and not MODEL_MAPPING[type(config)]._supports_sdpa:
            raise refusal("SetAttention", f"{config.model_type} has no sdpa attention; expected eager")
        config._attn_implementation = self.implementation

    def __call__(self, model: PreTrainedModel) -> PreTrainedModel:
        """The same model, computing with this kernel."""
        model.set_attn_implementation(self.implementation)
        return model


def check_plain_units(config: PreTrainedConfig, name: str) -> None:
    """DINOv2's giant has gated units, whose activation and width no field says."""
    if config.to_dict().get("use_swiglu_ffn"):
        raise refusal(name, f"this {config.model_type} has SwiGLU units, which its config fixes; leave it out")


def _same_weights(model: PreTrainedModel, step: SetActivation | SetDropout) -> PreTrainedModel:
    from hf_finetune.models.surgery.weights import built

    config = copy.deepcopy(model.config)
    step.refuse(config)
    return built(model, config, lambda old, _: old)
