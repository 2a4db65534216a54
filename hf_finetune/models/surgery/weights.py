"""Weights of layers, moved: a model is built anew from its changed config, and each layer told whose weights it takes.

Legend: K rows of a linear layer a neuron (2 for gated units), N neurons before, M after, D width of the layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_finetune.models.families import Family, Source

Weights = dict[str, torch.Tensor]


def built(
    model: PreTrainedModel, config: PreTrainedConfig, weights: Callable[[Weights, Weights], Weights]
) -> PreTrainedModel:
    """What plain transformers builds from `config`, with other weights: so the saved model loads as it stands.

    Args:
        weights: from the old model's and the new one's first weights (random as pretraining started, from torch's
            generator) to those that the new one gets, all of them.
    """
    new = type(model)(config)
    new.load_state_dict(weights(model.state_dict(), new.state_dict()))
    return new.to(model.device).train(model.training)


def arranged(
    model: PreTrainedModel, config: PreTrainedConfig, family: Family, stages: Sequence[Sequence[Source]]
) -> PreTrainedModel:
    """A model of other layers.

    Args:
        config: as many layers as `stages` has.
        stages: of each layer of each stage (one, where layers come in none), where its weights come from. A layer that
            `adds_nothing` must come behind the layer that it is a copy of.
    """

    def weights(old: Weights, fresh: Weights) -> Weights:
        before = layer_names(model, family, old)
        after = layer_names(model, family, fresh)
        result = {name: old[name] for name in fresh if not any(name.startswith(f"{layer}.") for layer in after)}
        last = ""
        for layer, source in zip(after, [s for stage in stages for s in stage], strict=True):
            mine = [name for name in fresh if name.startswith(f"{layer}.")]
            for name in mine:
                taken = f"{before[source.layer]}{name[len(layer) :]}"
                # ModernBERT's first layer has no norm to copy: the copy's is as it starts.
                result[name] = (old[taken] if taken in old else fresh[name]).clone()
            if source.adds_nothing:
                _silence(result, family, layer, last)
            last = layer
        return result

    return built(model, config, weights)


def _silence(weights: Weights, family: Family, layer: str, previous: str) -> None:
    """Let a layer pass on what it gets, until its output weights have learned something.

    Behind a layer that ends in a LayerNorm y = g z + b this takes more than zeros: the layer's own norms would take g and
    b away. So the previous layer ends in z alone, which a norm leaves as it is, and the last norm here makes g z + b.
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


def started_anew(model: PreTrainedModel, family: Family, layers: Sequence[int], pooler: bool) -> PreTrainedModel:
    """The model with first weights, random as pretraining started, in these layers, and in the encoder's pooler."""

    def weights(old: Weights, fresh: Weights) -> Weights:
        names = layer_names(model, family, old)
        begun = [f"{names[i]}." for i in layers] + [f"{model.base_model_prefix}.pooler."] * pooler
        return {name: (fresh if name.startswith(tuple(begun)) else old)[name] for name in old}

    return built(model, model.config, weights)


def highest(model: PreTrainedModel, family: Family, count: int) -> list[nn.Module]:
    """The `count` highest layers."""
    return [model.get_submodule(name) for name in layer_names(model, family, model.state_dict())[-count:]]


def layer_names(model: PreTrainedModel, family: Family, weights: Weights) -> list[str]:
    """Full names of the layers, bottom to top."""
    pattern = re.escape(f"{model.base_model_prefix}.{family.layers}").replace(r"\{\}", r"(\d+)")
    found = {m[0]: tuple(map(int, m.groups())) for name in weights if (m := re.match(pattern + r"(?=\.)", name))}
    return sorted(found, key=lambda name: found[name])


def resized_feed_forward(
    model: PreTrainedModel, config: PreTrainedConfig, family: Family, *, split: bool
) -> PreTrainedModel:
    """The model with as many hidden neurons in every feed-forward network as `config` says.

    Args:
        split: fill a wider network with shares of its most important neurons, rather than with new ones that are not yet
            listened to.
    """
    assert family.up is not None and family.down is not None

    def weights(old: Weights, fresh: Weights) -> Weights:
        result = dict(old)
        for layer in layer_names(model, family, old):
            into, out = f"{layer}.{family.up}", f"{layer}.{family.down}.weight"
            width = fresh[out].shape[1]
            up = [n for n in (f"{into}.weight", f"{into}.bias") if n in old]
            rows_KN = [old[n].unflatten(0, (family.gates, -1)) for n in up]
            # A convolution of single pixels is a linear layer.
            down_DN = old[out].flatten(1)
            if width <= down_DN.shape[1]:
                kept_M = importance(rows_KN, down_DN).topk(width).indices.sort().values
                rows_KM = [rows[:, kept_M] for rows in rows_KN]
                down_DM = down_DN[:, kept_M]
            elif split:
                source_M, share_M = shares(importance(rows_KN, down_DN), width)
                rows_KM = [rows[:, source_M] for rows in rows_KN]
                down_DM = down_DN[:, source_M] * share_M
            else:
                new = width - down_DN.shape[1]
                rows_KM = [
                    torch.cat([rows, fresh[n].unflatten(0, (family.gates, -1))[:, -new:]], 1)
                    for n, rows in zip(up, rows_KN, strict=True)
                ]
                down_DM = torch.nn.functional.pad(down_DN, (0, new))
            result |= {n: rows.flatten(0, 1) for n, rows in zip(up, rows_KM, strict=True)}
            result[out] = down_DM.view_as(fresh[out])
        return result

    return built(model, config, weights)


def importance(rows_KN: Sequence[torch.Tensor], down_DN: torch.Tensor) -> torch.Tensor:
    """How much a neuron can matter: the norm of its outgoing weights times those of its incoming ones; shape (N,).

    Args:
        rows_KN: incoming weights (K, N, D), a convolution's (K, N, D, 1, 1), and, where there are any, biases (K, N):
            one vector for each of K.
    """
    squares_KN = sum(rows.square().flatten(2).sum(-1) if rows.ndim > 2 else rows.square() for rows in rows_KN)
    return squares_KN.sqrt().prod(0) * down_DN.norm(dim=0)


def shares(importance_N: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which neuron each of `width` neurons is a copy of, and its share of that one's output; each of shape (M,).

    The most important ones are copied, in turn (Net2WiderNet, arXiv:1511.05641). A neuron and its copies share the output
    as 1 : 2 : 3 ..., because copies with the same share would get the same gradients and stay copies forever.
    """
    neurons = len(importance_N)
    order = importance_N.argsort(descending=True, stable=True)
    source_M = torch.cat([torch.arange(neurons), order[torch.arange(width - neurons) % neurons]])
    copies_N = torch.bincount(source_M, minlength=neurons)
    turn_M = torch.cat([torch.ones(neurons), 2.0 + torch.arange(width - neurons) // neurons])
    return source_M, turn_M / (copies_N * (copies_N + 1) / 2)[source_M]
