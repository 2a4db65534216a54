"""Surgery on the width of the whole network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.models.families import FAMILIES, names_where
from hf_finetune.models.surgery.rebuild import Operation
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from hf_finetune.models.surgery.rebuild import Weights

# The same width from bottom to top; query, key and value are layers of their own; and a head's features can be turned,
# as no positions rotate them pair by pair.
ONE_WIDTH = names_where(lambda family: not family.staged and family.attention is not None)


@configclass
class NarrowHidden(Operation):
    """Narrow the stream of hidden states through the whole network: embeddings, layers, pooler and head.

    The features that stay are those that most is written to and read from, by the norms of the weights on either side
    and of the norms' gains. There are as many attention heads as before, each with fewer features: the best
    approximation of the products that it computes, of query with key and of output with value (truncated singular value
    decompositions). The feed-forward networks keep their width, see `ResizeFeedForward`. No data are looked at, and
    what is left computes something else: it is a student's start.
    """

    width: int | None = None
    """Features of a token: fewer than now, and a multiple of the number of attention heads."""
    ratio: float | None = None
    """In place of `width`: so many times as wide as now."""

    def update_config(self, config: PreTrainedConfig) -> None:
        """Write the width to `config`.

        Raises:
            InputError: not one of `width` and `ratio` is set, the family has no such width, or none of this size.
        """
        self.check_family(config, ONE_WIDTH)
        self.check_plain_units(config)
        fields, before, heads = config.to_dict(), config.hidden_size, config.num_attention_heads
        width = self._width(config)
        if width >= before or width % heads:
            raise self.refusal(f"expected fewer than {before} and a multiple of the {heads} heads, got {width}")
        if "mlp_ratio" in fields:
            inner = before * config.mlp_ratio
            if inner % width:
                raise self.refusal(f"expected a divisor of the feed-forward's width {inner}, got {width}")
            config.mlp_ratio = inner // width
        if FAMILIES[config.model_type].projects_embeddings:
            if config.embedding_size == before:
                config.embedding_size = width
            elif config.embedding_size == width:
                kind = config.model_type
                raise self.refusal(f"this {kind} has embeddings of {width} features; expected another width")
        if fields.get("pooler_output_size") == before:
            # Of ViT and DeiT, which a classifier does not have and an encoder that is loaded from it has.
            config.pooler_output_size = width
        config.hidden_size = width

    def new_weights(self, model: PreTrainedModel, old: Weights, fresh: Weights) -> Weights:
        """The best features and the closest attention heads."""
        from hf_finetune.models.surgery.narrowing import narrowed_weights

        return narrowed_weights(model, self._width(model.config), old, fresh)

    def _width(self, config: PreTrainedConfig) -> int:
        return self.requested_width(self.width, self.ratio, before=config.hidden_size, unit="features")
