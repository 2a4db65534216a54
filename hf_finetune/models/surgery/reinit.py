"""Surgery that starts the highest layers anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hf_finetune.errors import InputError
from hf_finetune.models.families import depth_of, family_of
from hf_finetune.models.surgery.rebuild import Operation, layer_names
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

    from hf_finetune.models.surgery.rebuild import Weights


@configclass
class ReinitTopLayers(Operation):
    """Begin the highest layers anew, with random weights as pretraining started (arXiv:2006.05987).

    What the top layers know is closest to the pretraining task; on small data they can be in the way. They must train,
    so methods that freeze them are refused; BatchNorm in them measures its statistics anew.
    """

    count: int
    """Number of layers."""
    pooler: bool = False
    """Begin the encoder's pooler anew, too. Only BERT's comes from pretraining."""

    def update_config(self, config: PreTrainedConfig) -> None:
        """See that there are such layers; nothing changes in `config`.

        Raises:
            InputError: the encoder has fewer, all are one (ALBERT), or it has no pooler.
        """
        family = self.family(config)
        self.check_own_weights(config)
        depth = depth_of(config, family)
        if not 1 <= self.count <= depth:
            raise self.refusal(f"count: expected 1 to {depth}, got {self.count}")
        if self.pooler and not family.pretrained_pooler:
            raise self.refusal(f"pooler: expected false, {config.model_type} has no pretrained pooler")

    def new_weights(self, model: PreTrainedModel, old: Weights, fresh: Weights) -> Weights:
        """First weights in the highest layers."""
        started = [f"{layer}." for layer in layer_names(model, self.family(model.config), old)[-self.count :]]
        started += [f"{model.base_model_prefix}.pooler."] * self.pooler
        return {name: (fresh if name.startswith(tuple(started)) else old)[name] for name in old}


def reinitialized_layers(model: PreTrainedModel, steps: Sequence[object]) -> list[nn.Module]:
    """The layers that operations started anew.

    Args:
        model: after the operations.
    """
    reinit = max((s for s in steps if isinstance(s, ReinitTopLayers)), key=lambda step: step.count, default=None)
    if reinit is None:
        return []
    names = layer_names(model, reinit.family(model.config), model.state_dict())
    return [model.get_submodule(name) for name in names[-reinit.count :]]


def refuse_frozen(model: PreTrainedModel, steps: Sequence[object], frozen_layers: int) -> None:
    """See that layers which were started anew train.

    Args:
        model: after the operations, and after all that freezes.
        frozen_layers: how many of the lowest layers the recipe freezes.

    Raises:
        InputError: one of them does not.
    """
    layers = reinitialized_layers(model, steps)
    family = family_of(model.config)
    if any(not p.requires_grad for layer in layers for p in layer.parameters()):
        assert family is not None, "a family whose layers were started anew"
        most = f"at most {depth_of(model.config, family) - len(layers)}" if not family.staged else "fewer"
        raise InputError(
            f"model.frozen_layers: expected {most} beside ReinitTopLayers(count={len(layers)}), whose layers must "
            f"train, got {frozen_layers}"
        )
