"""Surgery on the encoder's depth: layers kept, dropped, copied, added or begun anew.

Layers are numbered from 0, the lowest, over all stages where a family has stages.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from hf_finetune.errors import InputError
from hf_finetune.models.families import Family, Source, depth_of, depths_of, family_of, refusal
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel


@configclass
class _Chosen:
    """Which layers; exactly one of the fields says it."""

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
            InputError: none or several of the fields are given, or they name layers that are not there.
        """
        name = type(self).__name__
        given = [n for n in ("first", "last", "every", "layers") if getattr(self, n) not in (None, ())]
        if len(given) != 1:
            raise refusal(name, f"expected one of first, last, every or layers, got {', '.join(given) or 'none'}")
        if given == ["layers"]:
            numbers = list(self.layers)
            if sorted(numbers) != numbers or not all(0 <= n < depth for n in numbers):
                raise refusal(name, f"layers: expected rising numbers from 0 to {depth - 1}, got {numbers}")
            return numbers
        count = getattr(self, given[0])
        if not 1 <= count <= depth:
            raise refusal(name, f"{given[0]}: expected 1 to {depth}, as many layers as there are, got {count}")
        every_layer = list(range(depth))
        return every_layer[:count] if self.first else every_layer[-count:] if self.last else every_layer[::count]


@configclass
class KeepLayers(_Chosen):
    """Keep these encoder layers and drop the others.

    Keep the highest among them where the head reads the first token or a pooler: the layers below may not have written
    anything there yet.
    """

    def refuse(self, config: PreTrainedConfig) -> None:
        """Write the new depth to `config`.

        Raises:
            InputError: see `_Chosen.chosen`; a layer is named twice; the family cannot say the result.
        """
        _rearrange(config, self)

    def __call__(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model with these layers alone."""
        return _rearranged(model, self)


@configclass
class DropLayers(_Chosen):
    """Drop these encoder layers and keep the others (arXiv:2004.03844)."""

    def refuse(self, config: PreTrainedConfig) -> None:
        """Write the new depth to `config`.

        Raises:
            InputError: see `_Chosen.chosen`; a layer is named twice, or none would be left; the family cannot say the
                result.
        """
        _rearrange(config, self)

    def __call__(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model without these layers."""
        return _rearranged(model, self)


@configclass
class DuplicateLayers(_Chosen):
    """Put a copy behind each of these encoder layers, with weights of its own: it does its work twice from the start.

    A layer that is named twice gets two copies. The network computes something else than before; `AddLayers` does not.
    """

    def refuse(self, config: PreTrainedConfig) -> None:
        """Write the new depth to `config`.

        Raises:
            InputError: see `_Chosen.chosen`; the family cannot say the result.
        """
        _rearrange(config, self)

    def __call__(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model with the copies."""
        return _rearranged(model, self)


@configclass
class AddLayers(_Chosen):
    """Put a new layer behind each of these encoder layers; the network computes what it did, until the new ones learn.

    A new layer is a copy of the one below whose output weights are zero (arXiv:2401.02415), so it adds nothing to what it
    gets. In families that normalise after adding (BERT, RoBERTa, DistilBERT, ELECTRA, MPNet, DeBERTa) it also takes over the
    scale and shift of the LayerNorm below, which is left without. A layer that is named twice gets two. Adapters that
    multiply weights would leave it silent, and are refused.
    """

    def refuse(self, config: PreTrainedConfig) -> None:
        """Write the new depth to `config`.

        Raises:
            InputError: see `_Chosen.chosen`; the family cannot say the result.
        """
        _rearrange(config, self)

    def __call__(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model with the new layers."""
        return _rearranged(model, self)


@configclass
class ReinitTopLayers:
    """Begin the highest layers anew, with random weights as pretraining started (arXiv:2006.05987).

    What the top layers know is closest to the pretraining task; on small data they can be in the way. They must train, so
    methods that freeze them are refused; BatchNorm in them measures its statistics anew.
    """

    count: int
    """Number of layers."""
    pooler: bool = False
    """Begin the encoder's pooler anew, too. Only BERT's comes from pretraining."""

    def refuse(self, config: PreTrainedConfig) -> None:
        """See that there are such layers; nothing changes in `config`.

        Raises:
            InputError: the encoder has fewer, all are one (ALBERT), or it has no pooler.
        """
        family = family_of(config, "ReinitTopLayers")
        _check_own_weights(config, family, "ReinitTopLayers")
        depth = depth_of(config, family)
        if not 1 <= self.count <= depth:
            raise refusal("ReinitTopLayers", f"count: expected 1 to {depth}, got {self.count}")
        if self.pooler and config.model_type != "bert":
            raise refusal("ReinitTopLayers", f"pooler: expected false, {config.model_type} has no pretrained pooler")

    def __call__(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model with new weights, drawn by torch's generator."""
        from hf_finetune.models.surgery.weights import started_anew

        self.refuse(model.config)
        family = family_of(model.config, "ReinitTopLayers")
        depth = depth_of(model.config, family)
        return started_anew(model, family, range(depth - self.count, depth), self.pooler)


def begun_anew(model: PreTrainedModel, steps: Sequence[object]) -> list[nn.Module]:
    """The layers that were begun anew.

    Args:
        model: after the operations.
    """
    from hf_finetune.models.surgery.weights import highest

    counts = [step.count for step in steps if isinstance(step, ReinitTopLayers)]
    return highest(model, family_of(model.config, "ReinitTopLayers"), max(counts)) if counts else []


def refuse_frozen(model: PreTrainedModel, steps: Sequence[object], frozen_layers: int) -> None:
    """See that layers which were begun anew train.

    Args:
        model: after the operations, and after all that freezes.
        frozen_layers: how many of the lowest layers the recipe freezes.

    Raises:
        InputError: one of them does not.
    """
    begun = begun_anew(model, steps)
    if any(not p.requires_grad for layer in begun for p in layer.parameters()):
        family = family_of(model.config, "ReinitTopLayers")
        what = f"at most {depth_of(model.config, family) - len(begun)}" if not family.staged else "fewer"
        raise InputError(
            f"model.frozen_layers: expected {what} beside ReinitTopLayers(count={len(begun)}), whose layers must train, "
            f"got {frozen_layers}"
        )


LayerStep = KeepLayers | DropLayers | DuplicateLayers | AddLayers


def _sources(step: LayerStep, depth: int) -> list[Source]:
    """Where the weights of each layer come from, once the operation is done."""
    name, chosen = type(step).__name__, step.chosen(depth)
    match step:
        case KeepLayers() | DropLayers():
            if len(set(chosen)) < len(chosen):
                raise refusal(name, f"layers: expected each number once, got {chosen}")
            kept = [n for n in range(depth) if (n in chosen) == isinstance(step, KeepLayers)]
            if not kept:
                raise refusal(name, f"all {depth} layers would be gone; leave at least one")
            return [Source(n) for n in kept]
        case _:
            adds_nothing = isinstance(step, AddLayers)
            return [s for n in range(depth) for s in (Source(n), *[Source(n, adds_nothing)] * chosen.count(n))]


def _staged(config: PreTrainedConfig, family: Family, sources: Sequence[Source]) -> list[list[Source]]:
    """The sources by stage: one stage in families without."""
    depths = depths_of(config, family)
    ends = list(accumulate(depths))
    return [[s for s in sources if end - depth <= s.layer < end] for end, depth in zip(ends, depths, strict=True)]


def _rearrange(config: PreTrainedConfig, step: LayerStep) -> list[list[Source]]:
    """Write the new depth to `config` and return the sources by stage, or refuse what it cannot say."""
    from transformers.backbone_utils import BackboneConfigMixin

    name, kind = type(step).__name__, config.model_type
    family = family_of(config, name)
    if isinstance(step, AddLayers):
        _check_can_add_nothing(config, family)
    if config.to_dict().get("num_hidden_groups", 1) > 1:
        _check_own_weights(config, family, name)
    sources = _sources(step, depth_of(config, family))
    stages = _staged(config, family, sources)
    originals = [s.layer for s in sources if not s.adds_nothing]
    if kind == "modernbert":
        # The first layer is built without its first norm, and only the first.
        if originals.count(0) != 1:
            raise refusal(name, "modernbert's layer 0 has no norm before its attention: it must stay, and stay alone")
        config.layer_types = [config.layer_types[s.layer] for s in sources]
    if config.to_dict().get("conv_kernel_size", 0) > 0 and [s.layer for s in sources].count(0) != 1:
        raise refusal(name, f"this {kind} has a convolution beside layer 0: it must stay, and stay alone")
    if not family.staged:
        config.num_hidden_layers = len(sources)
    else:
        _check_stages(config, family, name, stages)
        setattr(config, family.depths, [len(stage) for stage in stages])
    if kind == "efficientnet":
        config.depth_coefficient = 1.0
        # Blocks by number, over all stages.
        config.depthwise_padding = [i for i, s in enumerate(sources) if s.layer in config.depthwise_padding]
    if isinstance(config, BackboneConfigMixin):
        if not family.staged:
            config.stage_names = ["stem", *(f"stage{i + 1}" for i in range(len(sources)))]
        # For use as a backbone: the features of the last layer, as is the default.
        config.set_output_features_output_indices(out_features=None, out_indices=None)
    return stages


def _check_stages(config: PreTrainedConfig, family: Family, name: str, stages: Sequence[Sequence[Source]]) -> None:
    kind = config.model_type
    begins = accumulate(depths_of(config, family), initial=0)
    for number, (stage, first) in enumerate(zip(stages, begins, strict=False)):
        if family.leads and [s.layer for s in stage].count(first) != 1:
            raise refusal(name, f"layer {first} of {kind} is the way into stage {number}: it must stay, and stay alone")
        if not stage:
            raise refusal(name, f"stage {number} of {kind} would have no layer left; leave at least one in each")
        if kind == "swin":
            _check_turns(name, number, stage, first)


def _check_turns(name: str, number: int, stage: Sequence[Source], first: int) -> None:
    """Swin's layers take turns: windows, shifted windows. Which one a layer is follows from its place alone."""
    for place, source in enumerate(stage):
        if not source.adds_nothing and (source.layer - first) % 2 != place % 2:
            raise refusal(
                name,
                f"layer {source.layer} of swin would come to place {place} of stage {number}, but its layers take turns at "
                "shifting their windows, by place; "
                + ("use AddLayers" if name == "DuplicateLayers" else "keep an even distance between those that stay"),
            )


def _check_can_add_nothing(config: PreTrainedConfig, family: Family) -> None:
    """See that a new layer can be made which passes on what it gets."""
    kind = config.model_type
    _check_own_weights(config, family, "AddLayers")
    if kind == "resnet" and config.hidden_act != "relu":
        raise refusal(
            "AddLayers",
            f"this resnet has {config.hidden_act} behind each layer, which would change what it gets; "
            "relu alone would not",
        )
    if kind == "poolformer" and not config.use_layer_scale:
        raise refusal("AddLayers", "this poolformer has no layer scales: its pooling cannot be silent; leave it out")


def _check_own_weights(config: PreTrainedConfig, family: Family, name: str) -> None:
    if family.shared:
        raise refusal(name, f"the layers of {config.model_type} share their weights; leave it out")


def _rearranged(model: PreTrainedModel, step: LayerStep) -> PreTrainedModel:
    from hf_finetune.models.surgery.weights import arranged, built

    family, config = family_of(model.config, type(step).__name__), copy.deepcopy(model.config)
    stages = _rearrange(config, step)
    if family.shared:
        return built(model, config, lambda old, _: old)
    return arranged(model, config, family, stages)
