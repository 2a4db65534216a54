"""Surgery on the encoder's depth: keep, drop, copy or add layers.

Layers are numbered from 0, the lowest, across all stages.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from hf_finetune.models.families import depth_of, depths_of, family_of, residual_outputs
from hf_finetune.models.surgery.rebuild import Operation, Weights, layer_names
from hf_finetune.utils.config import Count, CountOrZero, configclass

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Source:
    """The layer that a new layer gets its weights from."""

    layer: int
    """Its number before the operation."""
    adds_nothing: bool = False
    """Zero the output weights of the new layer, so that it returns its input."""


@configclass
class LayerStep(Operation):
    """An operation on selected layers; exactly one of the fields selects them."""

    first: Count | None = None
    """This many of the lowest layers."""
    last: Count | None = None
    """This many of the highest layers."""
    every: Count | None = None
    """Every n-th layer from the lowest on: 2 selects layers 0, 2, 4 and so on."""
    layers: tuple[CountOrZero, ...] = ()
    """Layers by number in rising order; 0 is the lowest."""

    def selected(self, depth: int) -> list[int]:
        """Return the numbers of the selected layers out of `depth`.

        Raises:
            InputError: none or several of the fields are set, or they select layers that do not exist.
        """
        options = {"first": self.first, "last": self.last, "every": self.every, "layers": self.layers or None}
        options = {name: value for name, value in options.items() if value is not None}
        if len(options) != 1:
            raise self.refusal(f"expected one of first, last, every or layers, got {', '.join(options) or 'none'}")
        if self.layers:
            numbers = list(self.layers)
            if sorted(numbers) != numbers or numbers[-1] >= depth:
                raise self.refusal(f"layers: expected rising numbers from 0 to {depth - 1}, got {numbers}")
            return numbers
        count = self.first or self.last or self.every or 1
        if count > depth:
            raise self.refusal(f"{next(iter(options))}: expected 1 to {depth}, the number of layers, got {count}")
        part = slice(count) if self.first else slice(-count, None) if self.last else slice(None, None, count)
        return list(range(depth))[part]

    @abstractmethod
    def sources(self, depth: int) -> list[Source]:
        """Return the source of each layer after the operation."""

    def update_config(self, config: PreTrainedConfig) -> None:
        """Set the depth in `config`.

        Raises:
            InputError: see `selected`; or a layer is dropped or kept twice, none would be left, or the family's config
                cannot express the result.
        """
        family = self.family(config)
        if config.to_dict().get("num_hidden_groups", 1) > 1:
            self.check_unshared(config)
        sources = self.sources(depth_of(config))
        _check_first(self, config, sources)
        if family.staged:
            setattr(config, family.depths, [len(stage) for stage in _by_stage(self, config, sources)])
        else:
            config.num_hidden_layers = len(sources)
        _update_fields_by_layer(config, sources)

    def new_weights(self, model: PreTrainedModel, old: Weights, fresh: Weights) -> Weights:
        """Return the weights of each layer, copied from its source."""
        family = self.family(model.config)
        if family.shared:
            return old
        before, after = layer_names(model, old), layer_names(model, fresh)
        outside = [name for name in fresh if not any(name.startswith(f"{layer}.") for layer in after)]
        # ESM's contact head, which classifiers do not use, reads every layer's attention: its shape follows the depth.
        result = {name: (old if old[name].shape == fresh[name].shape else fresh)[name] for name in outside}
        previous = ""
        for layer, source in zip(after, self.sources(depth_of(model.config)), strict=True):
            for name in fresh:
                if name.startswith(f"{layer}."):
                    origin = f"{before[source.layer]}{name[len(layer) :]}"
                    # A copy of ModernBERT's layer 0, which lacks a norm, gets a new norm.
                    result[name] = (old[origin] if origin in old else fresh[name]).clone()
            if source.adds_nothing:
                _zero_outputs(result, model.config, layer, previous)
            previous = layer
        return result


@configclass
class KeepLayers(LayerStep):
    """Keep the selected encoder layers and drop all others.

    If the head reads the first token or a pooler, keep the highest layer: lower layers may not write there yet.
    """

    def sources(self, depth: int) -> list[Source]:
        """Return the selected layers."""
        return _remaining(self, depth, drop=False)


@configclass
class DropLayers(LayerStep):
    """Drop the selected encoder layers and keep all others (arXiv:2004.03844)."""

    def sources(self, depth: int) -> list[Source]:
        """Return all layers but the selected ones."""
        return _remaining(self, depth, drop=True)


@configclass
class DuplicateLayers(LayerStep):
    """Insert a copy after each selected encoder layer, with weights of its own.

    A layer that is listed twice gets two copies. The outputs of the network change; with `AddLayers` they do not.
    """

    def sources(self, depth: int) -> list[Source]:
        """Return all layers, each followed by its copies."""
        selected = self.selected(depth)
        return [Source(n) for n in range(depth) for _ in range(1 + selected.count(n))]


@configclass
class AddLayers(LayerStep):
    """Insert a new layer after each selected encoder layer; the outputs of the network stay the same at first.

    A new layer is a copy of the layer below with output weights of zero (arXiv:2401.02415), so that it returns its
    input. In post-norm families (BERT, RoBERTa, DistilBERT, ELECTRA, MPNet, DeBERTa) it also takes the scale and shift
    of the LayerNorm below, which becomes neutral. A layer that is listed twice gets two. Adapters that multiply weights
    are refused: zero weights would stay zero.
    """

    def sources(self, depth: int) -> list[Source]:
        """Return all layers, each followed by its new layers."""
        selected = self.selected(depth)
        return [s for n in range(depth) for s in (Source(n), *[Source(n, adds_nothing=True)] * selected.count(n))]

    def update_config(self, config: PreTrainedConfig) -> None:
        """Set the depth in `config`, see `LayerStep`; refuse a network whose layers cannot return their input."""
        kind = config.model_type
        self.check_unshared(config)
        for name, value in self.family(config).identity_requires.items():
            if (other := getattr(config, name)) != value:
                why = f"with which a new layer cannot return its input; expected {value}, or leave it out"
                raise self.refusal(f"this {kind} has {name} {other}, {why}")
        super().update_config(config)


def _remaining(step: LayerStep, depth: int, *, drop: bool) -> list[Source]:
    selected = step.selected(depth)
    if len(set(selected)) < len(selected):
        raise step.refusal(f"layers: expected each number once, got {selected}")
    remaining = [n for n in range(depth) if (n in selected) != drop]
    if not remaining:
        raise step.refusal(f"all {depth} layers would be dropped; keep at least one")
    return [Source(n) for n in remaining]


def _check_first(step: LayerStep, config: PreTrainedConfig, sources: Sequence[Source]) -> None:
    """Refuse to drop or copy layer 0 if it is built unlike the others."""
    kind, firsts = config.model_type, [source for source in sources if source.layer == 0]
    if family_of(config).first_differs and sum(not source.adds_nothing for source in firsts) != 1:
        raise step.refusal(f"{kind}'s layer 0 has no norm before its attention: keep it, and do not copy it")
    if config.to_dict().get("conv_kernel_size", 0) > 0 and len(firsts) != 1:
        raise step.refusal(f"this {kind} has a convolution next to layer 0: keep it, and do not copy it")


def _by_stage(step: LayerStep, config: PreTrainedConfig, sources: Sequence[Source]) -> list[list[Source]]:
    """Group the sources by stage; refuse a stage that is empty, lacks its first layer, or has its windows shifted."""
    kind, family, depths = config.model_type, family_of(config), depths_of(config)
    stages = []
    for number, (first, depth) in enumerate(zip(accumulate(depths, initial=0), depths, strict=False)):
        stage = [source for source in sources if first <= source.layer < first + depth]
        if family.first_changes_shape and [source.layer for source in stage].count(first) != 1:
            raise step.refusal(f"layer {first} of {kind} leads into stage {number}: keep it, and do not copy it")
        if not stage:
            raise step.refusal(f"stage {number} of {kind} would have no layer left; keep at least one in each")
        for place, source in enumerate(stage if family.alternates else ()):
            # Whether a layer shifts its windows follows from its place in the stage.
            if not source.adds_nothing and (source.layer - first) % 2 != place % 2:
                moved = f"layer {source.layer} of {kind} would move to place {place} of stage {number}"
                raise step.refusal(
                    f"{moved}, but every other layer shifts its windows; keep an even distance "
                    "between the kept layers, or use AddLayers",
                )
        stages.append(stage)
    return stages


def _update_fields_by_layer(config: PreTrainedConfig, sources: Sequence[Source]) -> None:
    """Update the config fields that describe single layers."""
    from transformers.backbone_utils import BackboneConfigMixin

    family, fields = family_of(config), config.to_dict()
    if family.first_differs:
        config.layer_types = [config.layer_types[source.layer] for source in sources]
    if "depthwise_padding" in fields:
        config.depth_coefficient = 1.0
        # Numbers of blocks, counted across all stages.
        config.depthwise_padding = [i for i, s in enumerate(sources) if s.layer in config.depthwise_padding]
    if isinstance(config, BackboneConfigMixin):
        if not family.staged:
            config.stage_names = ["stem", *(f"stage{i + 1}" for i in range(len(sources)))]
        # As a backbone it outputs the features of the last layer, which is the default.
        config.set_output_features_output_indices(out_features=None, out_indices=None)


def _zero_outputs(weights: Weights, config: PreTrainedConfig, layer: str, previous: str) -> None:
    """Make a layer return its input, by output weights of zero.

    After a layer that ends in a LayerNorm y = g z + b, zeros are not enough: the norms of the new layer would remove g
    and b. So the previous layer outputs z, which a neutral norm does not change, and the last norm of the new layer
    gets g and b.
    """
    for name in residual_outputs(config):
        for part in ("", ".weight", ".bias"):
            if f"{layer}.{name}{part}" in weights:
                weights[f"{layer}.{name}{part}"].zero_()
    family = family_of(config)
    if not family.norms:
        return
    for part, neutral in (("weight", 1.0), ("bias", 0.0)):
        last = weights[f"{previous}.{family.norms[-1]}.{part}"]
        weights[f"{layer}.{family.norms[-1]}.{part}"].copy_(last)
        for norm in family.norms[:-1]:
            weights[f"{layer}.{norm}.{part}"].fill_(neutral)
        last.fill_(neutral)
