"""Layers that training skips at random: stochastic depth and LayerDrop.

Legend: B rows, T tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from hf_finetune.models.families import depth_of
from hf_finetune.models.surgery.rebuild import Operation
from hf_finetune.utils.config import Fraction, configclass

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel


@configclass
class StochasticDepth(Operation):
    """In training, drop what a layer adds to the residual stream of a row, and scale it up otherwise
    (arXiv:1603.09382).

    Where the config has `drop_path_rate` with this schedule (linear: beit, swin, convnext, poolformer; constant:
    dinov2), it is set there and saved. Elsewhere it acts while this package trains and is not part of the saved model.
    For families with norms before the layer; the others can use `LayerDrop`.
    """

    rate: Fraction
    """Probability of dropping the highest layer for a row."""
    schedule: Literal["linear", "constant"] = "linear"
    """Probability over the layers. linear: from 0 at the lowest to `rate` at the highest; constant: `rate` for all."""

    def update_config(self, config: PreTrainedConfig) -> None:
        """Set the rate in `config`, if it has a field for it.

        Raises:
            InputError: the family has norms after the layer, or stages with another schedule.
        """
        kind, family = config.model_type, self.family(config)
        if family.norms:
            raise self.refusal(f"{kind} normalizes after adding; use LayerDrop")
        if family.staged and family.drop_path is None:
            instead = "use SetDropout(hidden=...)" if "hidden" in family.dropout else "leave it out"
            raise self.refusal(f"{kind}'s config has no such rate; {instead}")
        if family.staged and self.schedule != family.drop_path:
            raise self.refusal(f"schedule: {kind} supports only {family.drop_path}")
        if family.drop_path is not None:
            config.drop_path_rate = self.rate if self.schedule == family.drop_path else 0.0

    def __call__(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return a model that drops layers in training."""
        self.updated_config(model)
        drop_path = self.family(model.config).drop_path
        if drop_path is not None:
            model = super().__call__(model)
        if self.schedule != drop_path:
            _skip_layers(model, self, rescale=True)
        return model


@configclass
class LayerDrop(Operation):
    """In training, skip whole layers for a row (arXiv:1909.11556), so that the network works with fewer layers.

    It acts while this package trains; the saved model is a stock model without it.
    """

    rate: Fraction
    """Probability of skipping the highest layer for a row."""
    schedule: Literal["linear", "constant"] = "constant"
    """Probability over the layers. linear: from 0 at the lowest to `rate` at the highest; constant: `rate` for all."""

    def update_config(self, config: PreTrainedConfig) -> None:
        """Check the family; `config` does not change.

        Raises:
            InputError: the family has stages, or shares one layer.
        """
        family = self.family(config)
        if not family.one_width:
            what = "has stages" if family.staged else "has one layer for all"
            instead = "use StochasticDepth" if family.staged and family.drop_path else "leave it out"
            raise self.refusal(f"{config.model_type} {what}; {instead}")

    def __call__(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the same model, which now skips layers in training."""
        self.update_config(model.config)
        _skip_layers(model, self, rescale=False)
        return model


@dataclass(frozen=True)
class Skip:
    """A forward hook on a layer: in training mode, replace its output by its input for random rows.

    It has no weights, so it is not saved.
    """

    rate: float
    """Probability of skipping a row."""
    rescale: bool
    """Divide what the layer adds to the other rows by 1 - rate, which keeps the expected output."""

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        """Return the layer's output, (B, T, D) or a tuple that starts with it; torch's generator draws the rows."""
        import torch

        if not layer.training or self.rate == 0:
            return output
        after_BTD = output[0] if isinstance(output, tuple) else output
        # `narrow_last_layer` computes a last layer for the first token only.
        before_BTD = inputs[0][:, : after_BTD.shape[1]]
        skips_B11 = torch.rand(len(after_BTD), 1, 1, device=after_BTD.device) < self.rate
        # Both branches are computed: distributed training needs a gradient of every weight in every step.
        through_BTD = before_BTD + (after_BTD - before_BTD) / (1 - self.rate) if self.rescale else after_BTD
        result_BTD = torch.where(skips_B11, before_BTD, through_BTD)
        return (result_BTD, *output[1:]) if isinstance(output, tuple) else result_BTD


def _skip_layers(model: PreTrainedModel, step: StochasticDepth | LayerDrop, *, rescale: bool) -> None:
    from hf_finetune.models.modules import encoder_layers

    highest = max(depth_of(model.config) - 1, 1)
    for number, layer in enumerate(encoder_layers(model)):
        share = number / highest if step.schedule == "linear" else 1.0
        layer.register_forward_hook(Skip(step.rate * share, rescale))
