"""Surgery on widths: of the feed-forward networks, and of the whole network."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Literal

from hf_finetune.models.families import check_family, family_of, refusal
from hf_finetune.models.surgery.inner import check_plain_units
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# The same width from bottom to top; query, key and value are layers of their own; and a head's features can be turned, as no
# positions rotate them pair by pair.
ONE_WIDTH = (
    *("bert", "roberta", "xlm-roberta", "camembert", "electra", "mpnet", "distilbert", "albert"),
    *("vit", "deit", "beit", "dinov2", "dinov2_with_registers"),
)


@configclass
class ResizeFeedForward:
    """Widen or narrow the feed-forward networks of all layers.

    Narrower: the most important neurons stay, by the norm of a neuron's outgoing weights times that of its incoming ones
    (for gated units, of both), the biases included. No data are looked at. Wider: the network computes what it did.
    """

    width: int | None = None
    """Hidden neurons of a layer, for all layers."""
    ratio: float | None = None
    """In place of `width`: so many times as wide as now. The only way for swin and poolformer, whose stages differ in
    width."""
    new: Literal["zero", "split"] = "zero"
    """Neurons of a wider network. zero: new ones, whose output weights are zero. split: copies of the most important
    neurons, which share the output with them (Net2WiderNet, arXiv:1511.05641)."""

    def refuse(self, config: PreTrainedConfig) -> None:
        """Write the width to `config`.

        Raises:
            InputError: not one of `width` and `ratio` is given, or the family's config cannot say the result.
        """
        name, kind = "ResizeFeedForward", config.model_type
        family = family_of(config, name)
        if family.up is None:
            raise refusal(name, f"{kind}'s config does not say how wide its feed-forward networks are; leave it out")
        check_plain_units(config, name)
        if family.staged:
            if self.ratio is None:
                raise refusal(name, f"width: {kind}'s stages differ in width; give ratio")
            # What the widths of all stages are multiples of.
            unit = config.embed_dim if kind == "swin" else math.gcd(*config.hidden_sizes)
            config.mlp_ratio = _wanted(self, config.mlp_ratio * unit, "neurons") / unit
            return
        per = config.hidden_size if family.width == "mlp_ratio" else 1
        width = _wanted(self, getattr(config, family.width) * per, "neurons")
        if width % per:
            low = max(1, width // per) * per
            raise refusal(name, f"expected a multiple of {per} for {kind}, got {width}; give {low} or {low + per}")
        setattr(config, family.width, width // per)

    def __call__(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model with feed-forward networks of this width; new neurons are drawn by torch's generator."""
        from hf_finetune.models.surgery.weights import resized_feed_forward

        config = copy.deepcopy(model.config)
        self.refuse(config)
        family = family_of(config, "ResizeFeedForward")
        return resized_feed_forward(model, config, family, split=self.new == "split")


@configclass
class NarrowHidden:
    """Narrow the stream of states through the whole network: embeddings, layers, pooler and head.

    The features that stay are those that most is written to and read from, by the norms of the weights on either side and
    of the norms' gains. There are as many attention heads as before, each with fewer features: the best approximation of
    the products that it computes, of query with key and of output with value (truncated singular value decompositions).
    The feed-forward networks keep their width, see `ResizeFeedForward`. No data are looked at, and what is left computes
    something else: it is a student's start.
    """

    width: int | None = None
    """Features of a token: fewer than now, and a multiple of the number of attention heads."""
    ratio: float | None = None
    """In place of `width`: so many times as wide as now."""

    def refuse(self, config: PreTrainedConfig) -> None:
        """Write the width to `config`.

        Raises:
            InputError: not one of `width` and `ratio` is given, the family has no such width, or none of this size.
        """
        name = "NarrowHidden"
        check_family(config, ONE_WIDTH, name)
        check_plain_units(config, name)
        before, heads = config.hidden_size, config.num_attention_heads
        width = _wanted(self, before, "features")
        if width >= before or width % heads:
            raise refusal(name, f"expected fewer than {before} and a multiple of the {heads} heads, got {width}")
        if "mlp_ratio" in config.to_dict():
            inner = before * config.mlp_ratio
            if inner % width:
                raise refusal(name, f"expected a divisor of the feed-forward's width {inner}, got {width}")
            config.mlp_ratio = inner // width
        if config.model_type == "electra":
            # Between embeddings and encoder it has a layer where they differ in width, and none where they do not.
            if config.embedding_size == before:
                config.embedding_size = width
            elif config.embedding_size == width:
                raise refusal(name, f"this electra has embeddings of {width} features; expected another width")
        if config.to_dict().get("pooler_output_size") == before:
            # Of ViT and DeiT, which a classifier does not have and an encoder that is loaded from it has.
            config.pooler_output_size = width
        config.hidden_size = width

    def __call__(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model of this width."""
        from hf_finetune.models.surgery.narrowing import narrowed

        config = copy.deepcopy(model.config)
        self.refuse(config)
        return narrowed(model, config)


def _wanted(step: ResizeFeedForward | NarrowHidden, before: float, unit: str) -> int:
    """The width that an operation asks for where it is `before` now."""
    name = type(step).__name__
    if (step.width is None) == (step.ratio is None):
        raise refusal(name, "expected width or ratio, one of them")
    width = before * step.ratio if step.width is None else step.width
    if width < 1 or not float(width).is_integer():
        given = f"width {step.width}" if step.ratio is None else f"ratio {step.ratio}"
        raise refusal(name, f"expected a whole number of {unit}, at least 1, got {width:g} from {given}")
    return int(width)
