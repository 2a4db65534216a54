"""Surgery on the width of the feed-forward networks.

Legend: K rows of a linear layer per neuron (2 for gated units), N neurons before, M after, D width of the layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from hf_finetune.models.families import stage_widths
from hf_finetune.models.family import FeedForward
from hf_finetune.models.surgery.rebuild import Weights, layer_names
from hf_finetune.models.surgery.width import WidthStep
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel


@configclass
class ResizeFeedForward(WidthStep):
    """Widen or narrow the feed-forward networks of all layers.

    Narrower: keep the most important neurons, by the norm of their outgoing weights times the norm of their incoming
    weights and biases (both norms of a gated unit). Needs no data. Wider: the outputs of the network stay the same.
    """

    new: Literal["zero", "split"] = "zero"
    """Neurons of a wider network. zero: new ones with output weights of zero. split: copies of the most important
    neurons, which share the output weights with them (Net2WiderNet, arXiv:1511.05641)."""

    def update_config(self, config: PreTrainedConfig) -> None:
        """Set the width in `config`.

        Raises:
            InputError: see `WidthStep`; or the family's config cannot express the width.
        """
        kind, family = config.model_type, self.family(config)
        if family.feed_forward is None:
            raise self.refusal(f"{kind}'s config does not say how wide its feed-forward networks are; leave it out")
        self.check_no_swiglu(config)
        if family.staged and self.ratio is None:
            raise self.refusal(f"width: {kind}'s stages differ in width; give ratio")
        field = family.feed_forward.width
        unit = 1
        if field == "mlp_ratio":
            # The widths of all stages must be whole numbers.
            unit = math.gcd(*stage_widths(config)) if family.staged else config.hidden_size
        width = self.new_width(getattr(config, field) * unit, "neurons")
        if family.staged:
            config.mlp_ratio = width / unit
            return
        if width % unit:
            low = max(1, width // unit) * unit
            raise self.refusal(f"expected a multiple of {unit} for {kind}, got {width}; give {low} or {low + unit}")
        setattr(config, field, width // unit)

    def new_weights(self, model: PreTrainedModel, old: Weights, fresh: Weights) -> Weights:
        """Return the weights with feed-forward networks of the new width."""
        network, result = self.family(model.config).feed_forward, dict(old)
        assert network is not None, "update_config has refused such a family"
        for layer in layer_names(model, old):
            result |= _resized(old, fresh, layer, network, split=self.new == "split")
        return result


def _resized(old: Weights, fresh: Weights, layer: str, network: FeedForward, *, split: bool) -> Weights:
    """Return the weights of one layer's feed-forward network, resized to the shapes in `fresh`."""
    import torch

    up = [name for name in (f"{layer}.{network.up}.weight", f"{layer}.{network.up}.bias") if name in old]
    down = f"{layer}.{network.down}.weight"
    rows_KN = [old[name].unflatten(0, (network.gates, -1)) for name in up]
    # A 1x1 convolution becomes a matrix.
    down_DN = old[down].flatten(1)
    width, neurons = fresh[down].shape[1], down_DN.shape[1]
    if width <= neurons:
        best_M = importance(rows_KN, down_DN).topk(width).indices.sort().values
        rows_KM = [rows[:, best_M] for rows in rows_KN]
        down_DM = down_DN[:, best_M]
    elif split:
        source_M, share_M = split_neurons(importance(rows_KN, down_DN), width)
        rows_KM = [rows[:, source_M] for rows in rows_KN]
        down_DM = down_DN[:, source_M] * share_M
    else:
        random_KM = [fresh[name].unflatten(0, (network.gates, -1)) for name in up]
        rows_KM = [torch.cat([n, m[:, neurons - width :]], 1) for n, m in zip(rows_KN, random_KM, strict=True)]
        down_DM = torch.nn.functional.pad(down_DN, (0, width - neurons))
    result = {name: rows.flatten(0, 1) for name, rows in zip(up, rows_KM, strict=True)}
    return result | {down: down_DM.view_as(fresh[down])}


def importance(rows_KN: Sequence[torch.Tensor], down_DN: torch.Tensor) -> torch.Tensor:
    """Return the importance of each neuron, shape (N,): norm of its outgoing weights times norms of its incoming ones.

    Args:
        rows_KN: incoming weights, shape (K, N, D), or (K, N, D, 1, 1) of a convolution, and biases (K, N), if any.
    """
    first, *others = (rows.square().flatten(2).sum(-1) if rows.ndim > 2 else rows.square() for rows in rows_KN)
    squares_KN = sum(others, first)
    return squares_KN.sqrt().prod(0) * down_DN.norm(dim=0)


def split_neurons(importance_N: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return for each of `width` neurons the neuron that it copies, and its share of the output weights; shapes (M,).

    The most important neurons are copied first (Net2WiderNet, arXiv:1511.05641). A neuron and its copies share the
    output weights as 1 : 2 : 3 ..., since copies with equal shares would get equal gradients and stay equal.
    """
    import torch

    neurons = len(importance_N)
    order = importance_N.argsort(descending=True, stable=True)
    source_M = torch.cat([torch.arange(neurons), order[torch.arange(width - neurons) % neurons]])
    copies_N = torch.bincount(source_M, minlength=neurons)
    turn_M = torch.cat([torch.ones(neurons), 2.0 + torch.arange(width - neurons) // neurons])
    return source_M, turn_M / (copies_N * (copies_N + 1) / 2)[source_M]
