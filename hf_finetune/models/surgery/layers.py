"""Surgery on the encoder's depth: keep, drop, copy or add layers.

Layers are numbered from 0, the lowest, over all stages where a family has stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from hf_finetune.models.families import Family, depth_of, depths_of
from hf_finetune.models.surgery.rebuild import Operation, layer_names
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from hf_finetune.models.surgery.rebuild import Weights


@dataclass(frozen=True)
class Source:
    """Where the weights of a layer come from."""

    layer: int
    """Number of the layer, before."""
    adds_nothing: bool = False
    """Whether its outputs are set to zero, so that it passes on what it gets."""


@configclass
class LayerStep(Operation):
    """An operation on layers; exactly one of the fields names them."""

    first: int | None = None
    """The lowest so many layers."""
    last: int | None = None
    """The highest so many layers."""
    every: int | None = None
    """Every so many layers one, from the lowest on: 2 is layers 0, 2, 4 and so on."""
    layers: tuple[int, ...] = ()
    """These layers by number, in rising order; 0 is the lowest."""

    def chosen(self, depth: int) -> list[int]:
        """Numbers of the layers, of `depth` in all.

        Raises:
            InputError: none or several of the fields are set, or they name layers that are not there.
        """
        counts = {n: v for n, v in (("first", self.first), ("last", self.last), ("every", self.every)) if v is not None}
        options = [*counts, *(["layers"] if self.layers else [])]
        if len(options) != 1:
            raise self.refusal(f"expected one of first, last, every or layers, got {', '.join(options) or 'none'}")
        if self.layers:
            numbers = list(self.layers)
            if sorted(numbers) != numbers or not all(0 <= n < depth for n in numbers):
                raise self.refusal(f"layers: expected rising numbers from 0 to {depth - 1}, got {numbers}")
            return numbers
        ((option, count),) = counts.items()
        if not 1 <= count <= depth:
            raise self.refusal(f"{option}: expected 1 to {depth}, as many layers as there are, got {count}")
        numbers = list(range(depth))
        return numbers[:count] if option == "first" else numbers[-count:] if option == "last" else numbers[::count]

    def sources(self, depth: int) -> list[Source]:
        """Where the weights of each layer come from, once the operation is done."""
        raise NotImplementedError

    def update_config(self, config: PreTrainedConfig) -> list[Source]:
        """Write the new depth to `config`, and return where the weights of each layer come from.

        Raises:
            InputError: see `chosen`; a layer is dropped or kept twice, or none would be left; the family's config
                cannot express the result.
        """
        family = self.family(config)
        if config.to_dict().get("num_hidden_groups", 1) > 1:
            self.check_own_weights(config)
        sources = self.sources(depth_of(config, family))
        _check_first(self, config, family, sources)
        if family.staged:
            stages = _check_stages(self, config, family, sources)
            setattr(config, family.depths, [len(stage) for stage in stages])
        else:
            config.num_hidden_layers = len(sources)
        _update_fields_by_layer(config, family, sources)
        return sources

    def new_weights(self, model: PreTrainedModel, old: Weights, fresh: Weights) -> Weights:
        """The weights of each layer from its source."""
        family = self.family(model.config)
        if family.shared:
            return old
        before, after = (layer_names(model, family, weights) for weights in (old, fresh))
        result = {name: old[name] for name in fresh if not any(name.startswith(f"{layer}.") for layer in after)}
        last = ""
        for layer, source in zip(after, self.sources(depth_of(model.config, family)), strict=True):
            for name in fresh:
                if name.startswith(f"{layer}."):
                    origin = f"{before[source.layer]}{name[len(layer) :]}"
                    # ModernBERT's first layer has no norm to copy: the copy's is as it starts.
                    result[name] = (old[origin] if origin in old else fresh[name]).clone()
            if source.adds_nothing:
                _silence(result, family, layer, last)
            last = layer
        return result


@configclass
class KeepLayers(LayerStep):
    """Keep these encoder layers and drop the others.

    Keep the highest among them where the head reads the first token or a pooler: the layers below may not have written
    anything there yet.
    """

    def sources(self, depth: int) -> list[Source]:
        """These layers alone."""
        return _remaining(self, depth, drop=False)


@configclass
class DropLayers(LayerStep):
    """Drop these encoder layers and keep the others (arXiv:2004.03844)."""

    def sources(self, depth: int) -> list[Source]:
        """All layers but these."""
        return _remaining(self, depth, drop=True)


@configclass
class DuplicateLayers(LayerStep):
    """Put a copy behind each of these encoder layers, with weights of its own: it does its work twice from the start.

    A layer that is named twice gets two copies. The network computes something else than before; `AddLayers` does not.
    """

    def sources(self, depth: int) -> list[Source]:
        """All layers, and the copies."""
        chosen = self.chosen(depth)
        return [Source(n) for n in range(depth) for _ in range(1 + chosen.count(n))]


@configclass
class AddLayers(LayerStep):
    """Put a new layer behind each of these encoder layers; the network computes what it did, until the new ones learn.

    A new layer is a copy of the one below whose output weights are zero (arXiv:2401.02415), so it adds nothing to what
    it gets. In families that normalize after adding (BERT, RoBERTa, DistilBERT, ELECTRA, MPNet, DeBERTa) it also takes
    over the scale and shift of the LayerNorm below, which is left without. A layer that is named twice gets two.
    Adapters that multiply weights would leave it silent, and are refused.
    """

    def sources(self, depth: int) -> list[Source]:
        """All layers, and the new ones."""
        chosen = self.chosen(depth)
        return [s for n in range(depth) for s in (Source(n), *[Source(n, adds_nothing=True)] * chosen.count(n))]

    def update_config(self, config: PreTrainedConfig) -> list[Source]:
        """As of every operation on layers; refused where a layer cannot pass on what it gets."""
        kind = config.model_type
        self.check_own_weights(config)
        for name, value in self.family(config).silent_if.items():
            if (other := getattr(config, name)) != value:
                why = f"with which a new layer cannot pass on what it gets; expected {value}, or leave it out"
                raise self.refusal(f"this {kind} has {name} {other}, {why}")
        return super().update_config(config)


def _remaining(step: LayerStep, depth: int, *, drop: bool) -> list[Source]:
    chosen = step.chosen(depth)
    if len(set(chosen)) < len(chosen):
        raise step.refusal(f"layers: expected each number once, got {chosen}")
    remaining = [n for n in range(depth) if (n in chosen) != drop]
    if not remaining:
        raise step.refusal(f"all {depth} layers would be gone; leave at least one")
    return [Source(n) for n in remaining]


def _check_first(step: LayerStep, config: PreTrainedConfig, family: Family, sources: Sequence[Source]) -> None:
    """Layer 0 must stay, and stay alone, where it is built otherwise than the others."""
    kind, firsts = config.model_type, [source for source in sources if source.layer == 0]
    if family.first_differs and sum(not source.adds_nothing for source in firsts) != 1:
        raise step.refusal(f"{kind}'s layer 0 has no norm before its attention: it must stay, and stay alone")
    if config.to_dict().get("conv_kernel_size", 0) > 0 and len(firsts) != 1:
        raise step.refusal(f"this {kind} has a convolution beside layer 0: it must stay, and stay alone")


def _check_stages(
    step: LayerStep, config: PreTrainedConfig, family: Family, sources: Sequence[Source]
) -> list[list[Source]]:
    """The sources by stage, each with a layer left, its way in among them."""
    kind, depths = config.model_type, depths_of(config, family)
    stages = []
    for number, (first, depth) in enumerate(zip(accumulate(depths, initial=0), depths, strict=False)):
        stage = [source for source in sources if first <= source.layer < first + depth]
        if family.leads and [source.layer for source in stage].count(first) != 1:
            raise step.refusal(f"layer {first} of {kind} is the way into stage {number}: it must stay, and stay alone")
        if not stage:
            raise step.refusal(f"stage {number} of {kind} would have no layer left; leave at least one in each")
        for place, source in enumerate(stage if family.alternating else ()):
            # Windows, shifted windows: which one a layer has follows from its place alone.
            if not source.adds_nothing and (source.layer - first) % 2 != place % 2:
                moved = f"layer {source.layer} of {kind} would come to place {place} of stage {number}"
                raise step.refusal(
                    f"{moved}, but its layers take turns at shifting their windows, by place; keep an even distance "
                    "between those that stay, and use AddLayers for more",
                )
        stages.append(stage)
    return stages


def _update_fields_by_layer(config: PreTrainedConfig, family: Family, sources: Sequence[Source]) -> None:
    """Write the config fields that say something of each layer."""
    from transformers.backbone_utils import BackboneConfigMixin

    fields = config.to_dict()
    if family.first_differs:
        config.layer_types = [config.layer_types[source.layer] for source in sources]
    if "depthwise_padding" in fields:
        config.depth_coefficient = 1.0
        # Blocks by number, over all stages.
        config.depthwise_padding = [i for i, s in enumerate(sources) if s.layer in config.depthwise_padding]
    if isinstance(config, BackboneConfigMixin):
        if not family.staged:
            config.stage_names = ["stem", *(f"stage{i + 1}" for i in range(len(sources)))]
        # For use as a backbone: the features of the last layer, as is the default.
        config.set_output_features_output_indices(out_features=None, out_indices=None)


def _silence(weights: Weights, family: Family, layer: str, previous: str) -> None:
    """Let a layer pass on what it gets, until its output weights have learned something.

    Behind a layer that ends in a LayerNorm y = g z + b this takes more than zeros: the layer's own norms would take g
    and b away. So the previous layer ends in z alone, which a norm leaves as it is, and the last norm here makes g z +
    b.
    """
    for name in family.outputs:
        for part in ("", ".weight", ".bias"):
            if f"{layer}.{name}{part}" in weights:
                weights[f"{layer}.{name}{part}"].zero_()
    if not family.norms:
        return
    for part, neutral in (("weight", 1.0), ("bias", 0.0)):
        last = weights[f"{previous}.{family.norms[-1]}.{part}"]
        weights[f"{layer}.{family.norms[-1]}.{part}"].copy_(last)
        for norm in family.norms[:-1]:
            weights[f"{layer}.{norm}.{part}"].fill_(neutral)
        last.fill_(neutral)
