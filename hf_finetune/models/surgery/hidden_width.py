"""Surgery on the width of the whole network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.models.families import family_of, names_where
from hf_finetune.models.surgery.rebuild import Weights
from hf_finetune.models.surgery.width import WidthStep
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# One width throughout; separate query, key and value layers; no rotary positions, which would tie features in pairs.
ONE_WIDTH = names_where(lambda family: not family.staged and family.attention is not None)


@configclass
class NarrowHidden(WidthStep):
    """Narrow the hidden states of the whole network: embeddings, layers, pooler and head. Experimental: three quarters
    of the width left .504 of an accuracy of .936, and students were not measured (docs/benchmarks.md#distillation).

    Keeps the most important features, by the norms of the weights that write and read them and of the norms' gains. The
    number of attention heads stays; each gets fewer features, which approximate its products of query with key and of
    output with value best (truncated singular value decomposition). The feed-forward networks keep their width, see
    `ResizeFeedForward`. Needs no data. The outputs change: use it to initialize a student.
    """

    def update_config(self, config: PreTrainedConfig) -> None:
        """Set the width in `config`: below the current one, and a multiple of the number of attention heads.

        Raises:
            InputError: see `WidthStep`; or the family has no single width, or cannot have this one.
        """
        self.check_family(config, ONE_WIDTH)
        self.check_no_swiglu(config)
        fields, before, heads = config.to_dict(), config.hidden_size, config.num_attention_heads
        width = self.new_width(before, "features")
        if width >= before or width % heads:
            raise self.refusal(f"expected fewer than {before} and a multiple of the {heads} heads, got {width}")
        if "mlp_ratio" in fields:
            neurons = before * config.mlp_ratio
            if neurons % width:
                raise self.refusal(f"expected a divisor of the feed-forward's width {neurons}, got {width}")
            config.mlp_ratio = neurons // width
        if family_of(config).projects_embeddings:
            if config.embedding_size == before:
                config.embedding_size = width
            elif config.embedding_size == width:
                kind = config.model_type
                raise self.refusal(f"this {kind} has embeddings of {width} features; expected another width")
        if fields.get("pooler_output_size") == before:
            # ViT and DeiT: a classifier has no pooler, but an encoder loaded from it does.
            config.pooler_output_size = width
        config.hidden_size = width

    def new_weights(self, model: PreTrainedModel, old: Weights, fresh: Weights) -> Weights:
        """Return the weights of the most important features, and the approximated attention heads."""
        from hf_finetune.models.surgery.narrowing import narrowed_weights

        return narrowed_weights(model, self.new_width(model.config.hidden_size, "features"), old, fresh)
