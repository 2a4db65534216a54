"""Fewer attention heads, each of its size."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel

from hf_finetune.compression.pruning.config import Importance
from hf_finetune.compression.pruning.group_step import PruneGroups
from hf_finetune.compression.pruning.networks import why_no_layers, why_not_stock
from hf_finetune.compression.pruning.sites import Site
from hf_finetune.compression.steps import StepRows
from hf_finetune.models.families import family_of, residual_outputs
from hf_finetune.models.modules import query_key_value, submodule, without_adapter
from hf_finetune.models.surgery.rebuild import layer_names
from hf_finetune.tasks.trained_model import TrainedModel
from hf_finetune.utils.config import Count, OpenFraction, configclass


@configclass
class PruneHeads(PruneGroups):
    """Remove attention heads, from the lowest layer up, so that each layer makes up for those below.

    The configs of ViT and its kin can say how large a head is, so that the network stays a plain checkpoint of
    transformers. Those of BERT, RoBERTa, ELECTRA, DistilBERT and ALBERT cannot: there it can only be exported.
    """

    name = "heads"
    share: OpenFraction = 0.5
    """Share of the heads of each layer that is removed; at least one remains."""
    importance: Importance = "reconstruction"
    """How the heads that remain are chosen."""
    reconstruct: bool = True
    """Solve for the weights of their outputs by least squares on calibration rows."""
    counts: tuple[Count, ...] = ()
    """In place of `share`: heads that remain in each layer, bottom to top."""

    def refusal(self, classifier: TrainedModel) -> str | None:
        """Refuse networks without heads that can be removed alone."""
        if (why := why_no_layers(classifier)) is not None:
            return why
        config = without_adapter(classifier.model).config
        if family_of(config).attention != "plain" or family_of(config).staged:
            return f"the attention of {config.model_type} has more than query, key and value for each head"
        layers, heads = len(attentions(classifier.model)), config.num_attention_heads
        if self.counts and (len(self.counts) != layers or max(self.counts) > heads):
            return f"it has {layers} layers of {heads} heads, and heads {list(self.counts)} were given"
        return None

    def row_passes(self, rows: StepRows) -> int:
        """Return its cost: half a pass for each layer."""
        return 4 * len(rows.calibration)

    def sites(self, model: PreTrainedModel) -> list[Site]:
        """Return the attentions."""
        size = model.config.hidden_size // model.config.num_attention_heads
        return [
            Site(tuple(inner), out, submodule(model, out, nn.Linear).in_features // size, size)
            for *inner, out in attentions(model)
        ]

    def remaining(self, sites: Sequence[Site]) -> list[int]:
        """Return the number of heads that remain in each layer."""
        return list(self.counts) or [site.kept(self.share) for site in sites]

    def describe(self, model: PreTrainedModel, counts: Sequence[int]) -> None:
        """Write the number of heads and their size to the config, if its class builds such a network."""
        config, before = model.config, model.config.num_attention_heads
        if len(set(counts)) > 1:
            return
        config.num_attention_heads, config.head_dim = counts[0], config.hidden_size // before
        try:
            is_stock = why_not_stock(model) is None
        except ValueError:  # not a divisor of the width, which most classes refuse
            is_stock = False
        if not is_stock:
            config.num_attention_heads = before
            del config.head_dim


def attentions(model: nn.Module) -> list[tuple[str, str, str, str]]:
    """Return the full names of query, key, value and output layer of every layer, bottom to top."""
    network = without_adapter(model)
    out = residual_outputs(network.config)[0]
    names = []
    for layer in layer_names(network, network.state_dict()):
        for name, module in network.get_submodule(layer).named_modules(prefix=layer):
            if qkv := query_key_value(module):
                query, key, value = (f"{name}.{part}" for part in qkv)
                names.append((query, key, value, f"{layer}.{out}"))
    return names
