"""Surgery that reinitializes the highest layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hf_finetune.errors import InputError
from hf_finetune.models.families import depth_of, family_of
from hf_finetune.models.surgery.rebuild import Operation, Weights, layer_names
from hf_finetune.utils.config import Count, configclass

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel


@configclass
class ReinitTopLayers(Operation):
    """Reinitialize the highest layers with random weights, as before pretraining (arXiv:2006.05987).

    The top layers are the most specific to the pretraining task, which can harm on small data. They must train, so
    methods that freeze them are refused; BatchNorm in them collects new statistics.
    """

    count: Count
    """Number of layers."""
    pooler: bool = False
    """Reinitialize the encoder's pooler, too. Only BERT's comes from pretraining."""

    def update_config(self, config: PreTrainedConfig) -> None:
        """Check the number of layers; `config` does not change.

        Raises:
            InputError: the encoder has fewer layers, shares their weights (ALBERT), or has no pretrained pooler.
        """
        family = self.family(config)
        self.check_unshared(config)
        depth = depth_of(config)
        if self.count > depth:
            raise self.refusal(f"count: expected 1 to {depth}, got {self.count}")
        if self.pooler and not family.pretrained_pooler:
            raise self.refusal(f"pooler: expected false, {config.model_type} has no pretrained pooler")

    def new_weights(self, model: PreTrainedModel, old: Weights, fresh: Weights) -> Weights:
        """Return the old weights, with random ones in the highest layers."""
        reset = [f"{layer}." for layer in layer_names(model, old)[-self.count :]]
        reset += [f"{model.base_model_prefix}.pooler."] * self.pooler
        return {name: (fresh if name.startswith(tuple(reset)) else old)[name] for name in old}


def reinitialized_layers(model: PreTrainedModel, steps: Sequence[object]) -> list[nn.Module]:
    """Return the layers that these operations have reinitialized.

    Args:
        model: after the operations.
    """
    count = max((step.count for step in steps if isinstance(step, ReinitTopLayers)), default=0)
    return [model.get_submodule(name) for name in layer_names(model, model.state_dict())[-count:]] if count else []


def refuse_frozen(model: PreTrainedModel, steps: Sequence[object], frozen_layers: int) -> None:
    """Refuse frozen weights in reinitialized layers.

    Args:
        model: after the operations and all freezing.
        frozen_layers: the recipe's number of frozen layers.

    Raises:
        InputError: a reinitialized layer has frozen weights.
    """
    layers = reinitialized_layers(model, steps)
    if any(not p.requires_grad for layer in layers for p in layer.parameters()):
        staged = family_of(model.config).staged
        most = "fewer" if staged else f"at most {depth_of(model.config) - len(layers)}"
        raise InputError(
            f"model.frozen_layers: expected {most} with ReinitTopLayers(count={len(layers)}), whose layers must "
            f"train, got {frozen_layers}"
        )
