"""Surgery that lets a head on the first token read the mean of all tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.models.families import family_of, names_where, residual_outputs, stock_head
from hf_finetune.models.surgery.layers import DuplicateLayers
from hf_finetune.models.surgery.rebuild import Operation, Weights, layer_names
from hf_finetune.utils.config import Positive, configclass

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# Post-norm layers with plain attention, below a hidden layer on the first token.
FAMILIES_WITH_MEAN = names_where(lambda family: family.fused is not None and family.norms)
# Weight and bias of the head's hidden layer at which its activation hardly bends states of mean 0 and deviation 1.
STRAIGHT: dict[str | None, tuple[float, float]] = {"tanh": (0.5, 0.0), "gelu": (1.0, 3.0), "relu": (1.0, 3.0)}


@configclass
class GatherMean(Operation):
    """Add a layer on top that gathers the mean of all tokens in the first one, which the head reads.

    The first token of a sentence encoder says little, and a mean is no head of the stock classes of BERT, RoBERTa,
    ELECTRA and DistilBERT. The new layer attends to all tokens alike and its feed-forward network adds nothing: it
    returns LayerNorm(weight x mean + token). The head's hidden layer becomes nearly linear. Both train further.
    """

    weight: Positive = 16.0
    """Weight of the mean beside the token itself, which the layer's residual connection adds."""
    hidden_scale: Positive | None = None
    """Weight of the head's hidden layer, a multiple of the identity. None: 0.5 before tanh, 1 before gelu and relu. The
    smaller, the straighter: states of lower layers have features up to 15 deviations from their mean."""

    def update_config(self, config: PreTrainedConfig) -> None:
        """Add a layer to `config`.

        Raises:
            InputError: the family has no such layer or head.
        """
        self.check_family(config, FAMILIES_WITH_MEAN)
        DuplicateLayers(last=1).update_config(config)

    def new_weights(self, model: PreTrainedModel, old: Weights, fresh: Weights) -> Weights:
        """Return the weights with those of the new layer and of the head's hidden layer."""
        family, stock = family_of(model.config), stock_head(model.config)
        assert family.fused is not None and family.feed_forward is not None and stock is not None, "see update_config"
        if f"{stock.dense}.weight" not in old:
            raise self.refusal(f"{type(model).__name__} has no head on the first token; leave it out")
        result = DuplicateLayers(last=1).new_weights(model, old, fresh)
        layer = layer_names(model, fresh)[-1]
        query, key, value = (f"{layer}.{family.fused.attention}.{name}" for name in family.projections)
        attention_out, feed_forward_out = (f"{layer}.{name}" for name in residual_outputs(model.config))
        for name, scale in ((query, 0.0), (key, 0.0), (value, 1.0), (attention_out, self.weight)):
            _set_multiple_of_identity(result, name, scale)
        _fill(result, feed_forward_out, weight=0.0)
        for norm in family.norms:
            _fill(result, f"{layer}.{norm}", weight=1.0)
        scale, bias = STRAIGHT[stock.activation]
        _set_multiple_of_identity(result, stock.dense, self.hidden_scale or scale)
        _fill(result, stock.dense, bias=bias)
        return result


# New tensors: those of the original model, which stays as it is, are among the weights.


def _set_multiple_of_identity(weights: Weights, layer: str, scale: float) -> None:
    old_DD = weights[f"{layer}.weight"]
    weights[f"{layer}.weight"] = old_DD.new_zeros(old_DD.shape).fill_diagonal_(scale)
    _fill(weights, layer)


def _fill(weights: Weights, layer: str, *, weight: float | None = None, bias: float = 0.0) -> None:
    for name, value in ((f"{layer}.weight", weight), (f"{layer}.bias", bias)):
        if value is not None:
            weights[name] = weights[name].new_full(weights[name].shape, value)
