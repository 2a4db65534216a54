"""Surgery on the width of the feed-forward networks.

Legend: K rows of a linear layer a neuron (2 for gated units), N neurons before, M after, D width of the layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from hf_finetune.models.families import FeedForward, stage_widths
from hf_finetune.models.surgery.rebuild import Operation, layer_names
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from hf_finetune.models.surgery.rebuild import Weights


@configclass
class ResizeFeedForward(Operation):
    """Widen or narrow the feed-forward networks of all layers.

    Narrower: the most important neurons stay, by the norm of a neuron's outgoing weights times that of its incoming
    ones (for gated units, of both), the biases included. No data are looked at. Wider: the network computes what it
    did.
    """

    width: int | None = None
    """Hidden neurons of a layer, for all layers."""
    ratio: float | None = None
    """In place of `width`: so many times as wide as now. The only way for swin and poolformer, whose stages differ in
    width."""
    new: Literal["zero", "split"] = "zero"
    """Neurons of a wider network. zero: new ones, whose output weights are zero. split: copies of the most important
    neurons, which share the output with them (Net2WiderNet, arXiv:1511.05641)."""

    def update_config(self, config: PreTrainedConfig) -> None:
        """Write the width to `config`.

        Raises:
            InputError: not one of `width` and `ratio` is set, or the family's config cannot express the result.
        """
        kind, family = config.model_type, self.family(config)
        if family.feed_forward is None:
            raise self.refusal(f"{kind}'s config does not say how wide its feed-forward networks are; leave it out")
        self.check_plain_units(config)
        if family.staged and self.ratio is None:
            raise self.refusal(f"width: {kind}'s stages differ in width; give ratio")
        field = family.feed_forward.width
        unit = 1
        if field == "mlp_ratio":
            # What the widths of all stages are multiples of.
            unit = math.gcd(*stage_widths(config)) if family.staged else config.hidden_size
        before = getattr(config, field) * unit
        width = self.requested_width(self.width, self.ratio, before=before, unit="neurons")
        if family.staged:
            config.mlp_ratio = width / unit
            return
        if width % unit:
            low = max(1, width // unit) * unit
            raise self.refusal(f"expected a multiple of {unit} for {kind}, got {width}; give {low} or {low + unit}")
        setattr(config, field, width // unit)

    def new_weights(self, model: PreTrainedModel, old: Weights, fresh: Weights) -> Weights:
        """Feed-forward networks of this width; new neurons are drawn by torch's generator."""
        family, result = self.family(model.config), dict(old)
        assert family.feed_forward is not None, "refused with the config"
        for layer in layer_names(model, family, old):
            result |= _resized(old, fresh, layer, family.feed_forward, split=self.new == "split")
        return result


def _resized(old: Weights, fresh: Weights, layer: str, network: FeedForward, *, split: bool) -> Weights:
    """The weights of one layer's feed-forward network, as wide as in `fresh`."""
    import torch

    up = [name for name in (f"{layer}.{network.up}.weight", f"{layer}.{network.up}.bias") if name in old]
    down = f"{layer}.{network.down}.weight"
    rows_KN = [old[name].unflatten(0, (network.gates, -1)) for name in up]
    # A convolution of single pixels is a linear layer.
    down_DN = old[down].flatten(1)
    width, neurons = fresh[down].shape[1], down_DN.shape[1]
    if width <= neurons:
        best_M = importance(rows_KN, down_DN).topk(width).indices.sort().values
        rows_KM = [rows[:, best_M] for rows in rows_KN]
        down_DM = down_DN[:, best_M]
    elif split:
        source_M, share_M = shares(importance(rows_KN, down_DN), width)
        rows_KM = [rows[:, source_M] for rows in rows_KN]
        down_DM = down_DN[:, source_M] * share_M
    else:
        first_KM = [fresh[name].unflatten(0, (network.gates, -1)) for name in up]
        rows_KM = [torch.cat([n, m[:, neurons - width :]], 1) for n, m in zip(rows_KN, first_KM, strict=True)]
        down_DM = torch.nn.functional.pad(down_DN, (0, width - neurons))
    result = {name: rows.flatten(0, 1) for name, rows in zip(up, rows_KM, strict=True)}
    return result | {down: down_DM.view_as(fresh[down])}


def importance(rows_KN: Sequence[torch.Tensor], down_DN: torch.Tensor) -> torch.Tensor:
    """How much a neuron can matter: the norm of its outgoing weights times those of its incoming ones; shape (N,).

    Args:
        rows_KN: incoming weights (K, N, D), a convolution's (K, N, D, 1, 1), and, where there are any, biases (K, N):
            one vector for each of K.
    """
    first, *others = (rows.square().flatten(2).sum(-1) if rows.ndim > 2 else rows.square() for rows in rows_KN)
    squares_KN = sum(others, first)
    return squares_KN.sqrt().prod(0) * down_DN.norm(dim=0)


def shares(importance_N: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which neuron each of `width` neurons is a copy of, and its share of that one's output; each of shape (M,).

    The most important ones are copied, in turn (Net2WiderNet, arXiv:1511.05641). A neuron and its copies share the
    output as 1 : 2 : 3 ..., because copies with the same share would get the same gradients and stay copies forever.
    """
    import torch

    neurons = len(importance_N)
    order = importance_N.argsort(descending=True, stable=True)
    source_M = torch.cat([torch.arange(neurons), order[torch.arange(width - neurons) % neurons]])
    copies_N = torch.bincount(source_M, minlength=neurons)
    turn_M = torch.cat([torch.ones(neurons), 2.0 + torch.arange(width - neurons) // neurons])
    return source_M, turn_M / (copies_N * (copies_N + 1) / 2)[source_M]
