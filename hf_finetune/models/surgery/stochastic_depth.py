"""Layers that are passed over at random while training: stochastic depth and LayerDrop.

Legend: B rows, T tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from hf_finetune.models.families import Family, depth_of
from hf_finetune.models.surgery.rebuild import Operation
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel


@configclass
class StochasticDepth(Operation):
    """While training, drop what a layer adds to a row's stream, and scale up what is not dropped (arXiv:1603.09382).

    Where the config has `drop_path_rate` with this schedule (linear: beit, swin, convnext, poolformer; constant:
    dinov2), that is set and saved. Elsewhere it holds while this package trains, and the saved model knows nothing of
    it. For families that normalize before a layer; for the others there is `LayerDrop`.
    """

    rate: float
    """Chance that the highest layer is dropped for a row."""
    schedule: Literal["linear", "constant"] = "linear"
    """Chance over the layers. linear: from 0 at the lowest to `rate` at the highest; constant: `rate` for all."""

    def update_config(self, config: PreTrainedConfig) -> None:
        """Write the rate to `config`, where it has a field for it.

        Raises:
            InputError: the rate is out of range, or the family normalizes after a layer or has stages and another
                schedule.
        """
        kind, family = config.model_type, self.family(config)
        _check_rate(self)
        if family.norms:
            raise self.refusal(f"{kind} normalizes after adding; use LayerDrop")
        if family.staged and family.drop_path is None:
            instead = "use SetDropout(hidden=...)" if "hidden" in family.dropout else "leave it out"
            raise self.refusal(f"{kind}'s config has no such rate; {instead}")
        if family.staged and self.schedule != family.drop_path:
            raise self.refusal(f"schedule: {kind} has the {family.drop_path} one alone")
        if family.drop_path is not None:
            config.drop_path_rate = self.rate if self.schedule == family.drop_path else 0.0

    def __call__(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model that drops."""
        self.updated_config(model)
        family = self.family(model.config)
        if family.drop_path is not None:
            model = super().__call__(model)
        if self.schedule != family.drop_path:
            _skip_layers(model, family, self, rescale=True)
        return model


@configclass
class LayerDrop(Operation):
    """While training, let a row pass a whole layer by (arXiv:1909.11556), so that the network gets used to being
    shallower.

    It holds while this package trains; the saved model is a stock one that knows nothing of it.
    """

    rate: float
    """Chance that a row passes the highest layer by."""
    schedule: Literal["linear", "constant"] = "constant"
    """Chance over the layers. linear: from 0 at the lowest to `rate` at the highest; constant: `rate` for all."""

    def update_config(self, config: PreTrainedConfig) -> None:
        """See that the layers can be passed by; nothing changes in `config`.

        Raises:
            InputError: the rate is out of range, or the family has stages or one layer for all.
        """
        family = self.family(config)
        _check_rate(self)
        if not family.one_width:
            what = "has stages" if family.staged else "has one layer for all"
            instead = "use StochasticDepth" if family.staged and family.drop_path else "leave it out"
            raise self.refusal(f"{config.model_type} {what}; {instead}")

    def __call__(self, model: PreTrainedModel) -> PreTrainedModel:
        """The same model, dropping."""
        self.update_config(model.config)
        _skip_layers(model, self.family(model.config), self, rescale=False)
        return model


@dataclass(frozen=True)
class Skip:
    """A forward hook on a layer: in training mode, each row stays what it was before the layer, with chance `rate`.

    It has no weights, so nothing of it is saved.
    """

    rate: float
    rescale: bool
    """Divide what the layer adds by 1 - rate where it is not dropped: the same on average as without dropping."""

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        """The layer's output, (B, T, D) or a tuple that begins with it; drawn by torch's generator."""
        import torch

        if not layer.training or self.rate == 0:
            return output
        after_BTD = output[0] if isinstance(output, tuple) else output
        # A last layer may be computed for the first token alone, see `narrow_last_layer`.
        before_BTD = inputs[0][:, : after_BTD.shape[1]]
        skips_B11 = torch.rand(len(after_BTD), 1, 1, device=after_BTD.device) < self.rate
        # Both ways are computed: every weight takes part in every step, as processes that share gradients need it.
        through_BTD = before_BTD + (after_BTD - before_BTD) / (1 - self.rate) if self.rescale else after_BTD
        result_BTD = torch.where(skips_B11, before_BTD, through_BTD)
        return (result_BTD, *output[1:]) if isinstance(output, tuple) else result_BTD


def _skip_layers(model: PreTrainedModel, family: Family, step: StochasticDepth | LayerDrop, *, rescale: bool) -> None:
    from hf_finetune.models.modules import encoder_layers

    depth = depth_of(model.config, family)
    for number, layer in enumerate(encoder_layers(model)):
        share = number / max(depth - 1, 1) if step.schedule == "linear" else 1.0
        layer.register_forward_hook(Skip(step.rate * share, rescale))


def _check_rate(step: StochasticDepth | LayerDrop) -> None:
    if not 0 <= step.rate < 1:
        raise step.refusal(f"rate: expected at least 0 and below 1, got {step.rate}")
