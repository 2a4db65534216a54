"""Narrow the hidden states of a network: select features, and approximate attention heads.

Legend: D features of a token before, W after; H attention heads, E features of a head before, F after; I, J inputs of a
linear layer, its bias as one more.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_finetune.models.families import residual_outputs
from hf_finetune.models.modules import query_key_value
from hf_finetune.models.surgery.rebuild import Weights, layer_names


def narrowed_weights(model: PreTrainedModel, width: int, old: Weights, fresh: Weights) -> Weights:
    """Return the weights of a model of this width, see `hidden_width.NarrowHidden`; `fresh` has their shapes."""
    before, heads = model.config.hidden_size, model.config.num_attention_heads
    attentions = _attentions(model, old)
    # Features within an attention head are not features of a token.
    inner = {(f"{name}.{part}", 0) for *qkv, _ in attentions for name in qkv for part in ("weight", "bias")}
    inner |= {(f"{out}.weight", 1) for *_, out in attentions}
    features = {
        name: [
            dim for dim, size in enumerate(fresh[name].shape) if tensor.shape[dim] != size and (name, dim) not in inner
        ]
        for name, tensor in old.items()
    }
    best_W = _importance(model, features).topk(width).indices.sort().values
    result = dict(old)
    for name, dims in features.items():
        for dim in dims:
            # DINOv2's head reads two tokens, concatenated.
            tokens = old[name].shape[dim] // before
            places = torch.cat([best_W + before * token for token in range(tokens)])
            result[name] = result[name].index_select(dim, places.to(result[name].device))
    for attention in attentions:
        result |= _narrow_heads(result, attention, heads, width)
    return result


def _attentions(model: PreTrainedModel, weights: Weights) -> list[tuple[str, str, str, str]]:
    """Return the full names of query, key, value and output layer of every layer, bottom to top."""
    out = residual_outputs(model.config)[0]
    names = []
    for layer in layer_names(model, weights):
        for name, module in model.get_submodule(layer).named_modules(prefix=layer):
            if qkv := query_key_value(module):
                query, key, value = (f"{name}.{part}" for part in qkv)
                names.append((query, key, value, f"{layer}.{out}"))
    return names


def _importance(model: PreTrainedModel, features: Mapping[str, Sequence[int]]) -> torch.Tensor:
    """Return the importance of each feature of the tokens, shape (D,): the product of three norms, of the weights that
    write it, of those that read it and of the norms' gains. Every weight counts the same, whatever its number of rows.

    Args:
        features: dimensions of each weight that are features of tokens.
    """
    writing, reading, gains = torch.zeros(3, model.config.hidden_size)
    for name, weight in model.named_parameters():
        layer = model.get_submodule(name.rpartition(".")[0])
        for dim in features[name]:
            squares = weight.detach().cpu().float().square().movedim(dim, 0).reshape(weight.shape[dim], -1)
            squares_D = squares.mean(1).unflatten(0, (-1, len(writing))).mean(0)
            if isinstance(layer, nn.Linear) and dim == 1:
                reading += squares_D
            elif isinstance(layer, nn.LayerNorm):
                gains += squares_D * name.endswith("weight")
            elif weight.ndim > 1:
                writing += squares_D
    return (writing * reading * gains).sqrt()


def _narrow_heads(weights: Weights, attention: Sequence[str], heads: int, width: int) -> Weights:
    """Return the weights of one attention block whose heads have `width` features together."""
    query, key, value, out = attention

    def by_head(name: str) -> torch.Tensor:
        """Return the weights of a linear layer, with its bias as last column, by head; shape (H, E, I)."""
        parts = [weights[f"{name}.weight"]]
        parts += [weights[f"{name}.bias"].unsqueeze(1)] if f"{name}.bias" in weights else []
        return torch.cat(parts, 1).float().unflatten(0, (heads, -1))

    def as_linear(name: str, rows_HFI: torch.Tensor) -> Weights:
        rows, like = rows_HFI.flatten(0, 1), weights[f"{name}.weight"]
        parts = {"weight": rows[:, : like.shape[1]]}
        parts |= {"bias": rows[:, -1]} if f"{name}.bias" in weights else {}
        return {f"{name}.{part}": tensor.to(like.dtype) for part, tensor in parts.items()}

    query_HFI, key_HFI = low_rank_factors(by_head(query), by_head(key), width // heads)
    # Attention divides the scores by the square root of the features of a head.
    scale = math.sqrt(query_HFI.shape[1] / by_head(query).shape[1])
    out_HEW = weights[f"{out}.weight"].float().unflatten(1, (heads, -1)).permute(1, 2, 0)
    value_HFI, out_HFW = low_rank_factors(by_head(value), out_HEW, width // heads)
    result = as_linear(query, query_HFI * scale) | as_linear(key, key_HFI) | as_linear(value, value_HFI)
    result[f"{out}.weight"] = out_HFW.flatten(0, 1).T.to(weights[f"{out}.weight"].dtype)
    return result


def low_rank_factors(a_HEI: torch.Tensor, b_HEJ: torch.Tensor, features: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return matrices of `features` rows whose product a^T b is closest to the given one, in least squares.

    Where that product is zero, as in added layers, return the first rows: if both factors were zero they would stay
    zero, because each is a factor of the other's gradient.

    Returns:
        Shapes (H, F, I) and (H, F, J).
    """
    # The product has at most rank E: its singular values are those of a small matrix between two orthogonal ones.
    (a_HIR, inner_HRE), (b_HJS, inner_HSE) = (torch.linalg.qr(matrix.mT) for matrix in (a_HEI, b_HEJ))
    left_HRK, values_HK, right_HKS = torch.linalg.svd(inner_HRE @ inner_HSE.mT, full_matrices=False)
    root_H1F = values_HK[:, None, :features].sqrt()
    a_HIF = a_HIR @ left_HRK[:, :, :features] * root_H1F
    b_HJF = b_HJS @ right_HKS.mT[:, :, :features] * root_H1F
    is_zero_H11 = (values_HK.sum(1) == 0)[:, None, None]
    return (
        torch.where(is_zero_H11, a_HEI[:, :features], a_HIF.mT),
        torch.where(is_zero_H11, b_HEJ[:, :features], b_HJF.mT),
    )
