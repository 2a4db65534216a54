"""A BERT layer as one autograd function, for short sequences on a CPU.

A layer of a small BERT is a dozen matrix products and, under autocast, a hundred small operations between them: casts
of weights and activations, their copies back, nodes of the graph. On a CPU with fast bf16 products these take most of a
step. Here forward and backward pass are written out, so that each weight is cast once, each activation is stored once,
and products have few different shapes. The results equal those of the layers in `transformers` up to rounding; under
autocast the residual stream and the norms stay in float32. Long sequences gain nothing: a ViT with 257 tokens took a
fifth longer than with its own layers.

Legend: B rows, T tokens, Q tokens that the output has (T, or 1), M = B * Q, D width, F width of the feed-forward
network, H heads, E = D / H. Variables that start with `g` are gradients.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import nn
from torch.autograd.function import once_differentiable

# Matrix products have a multiple of this many rows: their kernels are compiled by shape, up to three milliseconds each,
# and batches of similar lengths would give dozens of shapes per layer.
ROWS = 64
# Without a gradient, and from so many tokens on, torch's attention kernel takes less time than single products, which
# write all scores to memory. Milliseconds on one thread for 2,048 tokens of 12 heads of 32: 10.2 instead of 8.3 with 12
# tokens a row, 6.2 instead of 7.8 with 24, 6.0 instead of 11.7 with 64, 9.6 instead of 22.6 with 128.
FLASH = 24
Draw = Callable[[torch.Size, float, torch.dtype], torch.Tensor]
Value = TypeVar("Value")


class Weights(NamedTuple, Generic[Value]):
    """One value for each parameter of a layer: the parameter itself, or whether it needs a gradient."""

    query: Value
    query_bias: Value
    key: Value
    key_bias: Value
    value: Value
    value_bias: Value
    out: Value
    out_bias: Value
    norm_1: Value
    norm_1_bias: Value
    up: Value
    up_bias: Value
    down: Value
    down_bias: Value
    norm_2: Value
    norm_2_bias: Value


@dataclass(frozen=True)
class Settings:
    """The settings of a layer."""

    heads: int
    eps: tuple[float, float]
    """Epsilons of the two norms."""
    first_token_only: bool
    """Compute the output of the first token only."""
    draw: Draw
    """Returns a dropout mask, 0 or 1 / (1 - rate), of a shape, a rate and a dtype."""
    backward: bool = True
    """Keep what a backward pass needs. False: gradients are off."""
    dropout: tuple[float, ...] = (0.0, 0.0, 0.0)
    """Dropout rates of the attention weights, the attention output and the feed-forward output."""


class _Attended(NamedTuple):
    """Tensors that the backward pass of attention needs."""

    x: torch.Tensor  # (B * T, D)
    read: torch.Tensor  # (B * Q, D)
    query: torch.Tensor  # (B * H, Q, E)
    key_value: torch.Tensor  # (2, B * H, T, E)
    shares: torch.Tensor  # (B * H, Q, T), before dropout
    dropout: torch.Tensor | None  # the dropout mask of the shares
    context: torch.Tensor  # (B * Q, D)
    w_query: torch.Tensor
    w_key_value: torch.Tensor
    w_out: torch.Tensor


class _Fed(NamedTuple):
    """Tensors that the backward pass of the feed-forward network needs."""

    x: torch.Tensor  # (M, D)
    up: torch.Tensor  # (M, F), before GELU
    active: torch.Tensor  # (M, F), after GELU
    w_up: torch.Tensor
    w_down: torch.Tensor


class _Normed(NamedTuple):
    """Tensors that the backward pass of a norm needs."""

    x: torch.Tensor
    mean: torch.Tensor
    rstd: torch.Tensor


class EncoderLayer(torch.autograd.Function):
    """`EncoderLayer.apply(x_BTD, mask, settings, *weights)` returns (B, Q, D).

    The mask is added to the scores, broadcast to (B, H, T, T); None: no token is masked. Products are computed in the
    dtype of autocast, without autocast in that of `x`.
    """

    @staticmethod
    def forward(
        ctx: Any, x_BTD: torch.Tensor, mask: torch.Tensor | None, settings: Settings, *parameters: torch.Tensor
    ) -> torch.Tensor:
        """Compute the layer."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x_BTD.dtype
        with torch.autocast("cpu", enabled=False):
            w = Weights(*parameters)
            B, T, D = x_BTD.shape
            x = x_BTD.reshape(B * T, D)
            low = _low(x, dtype)
            read, low_read = (x_BTD[:, 0], _low(x_BTD[:, 0], dtype)) if settings.first_token_only else (x, low)
            sizes = (B, 1 if settings.first_token_only else T, T)
            backward = settings.backward and any(ctx.needs_input_grad)
            flash = T >= FLASH and not backward and settings.dropout[0] == 0
            out, attended = _attend(low, low_read, mask, sizes, w, settings, flash=flash)
            sum_1, mask_1 = _drop_and_add(out, read, settings.dropout[1], settings.draw)
            y, normed_1 = _norm(sum_1, w.norm_1, w.norm_1_bias, settings.eps[0])
            down, fed = _feed(_low(y, dtype), len(y), w)
            sum_2, mask_2 = _drop_and_add(down, y, settings.dropout[2], settings.draw)
            result, normed_2 = _norm(sum_2, w.norm_2, w.norm_2_bias, settings.eps[1])
        if attended is None:
            return result.view(B, -1, D)
        groups = (attended, fed, normed_1, normed_2, (mask_1, mask_2), parameters)
        ctx.save_for_backward(*(tensor for group in groups for tensor in group))
        ctx.settings, ctx.size = settings, (B, T, D)
        return result.view(B, -1, D)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_BQD: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of `x` and of the weights."""
        saved = iter(ctx.saved_tensors)
        attended = _Attended(*(next(saved) for _ in _Attended._fields))
        fed = _Fed(*(next(saved) for _ in _Fed._fields))
        normed_1, normed_2 = (_Normed(*(next(saved) for _ in _Normed._fields)) for _ in range(2))
        mask_1, mask_2 = next(saved), next(saved)
        w = Weights(*saved)
        settings, (B, T, D) = ctx.settings, ctx.size
        needed = Weights(*ctx.needs_input_grad[3:])
        dtype = fed.x.dtype
        g = g_BQD.reshape(-1, D)
        g_sum, of_norm_2 = _norm_backward(g, normed_2, w.norm_2, w.norm_2_bias)
        g_y, of_feed = _feed_backward(_drop_backward(g_sum, mask_2, dtype), len(g_sum), fed, needed)
        g_sum, of_norm_1 = _norm_backward(g_sum.add_(g_y), normed_1, w.norm_1, w.norm_1_bias)
        out = _drop_backward(g_sum, mask_1, dtype)
        g_x, g_read, of_attention = _attend_backward(out, attended, B, settings, needed)
        g_read = g_sum.add_(g_read)
        if settings.first_token_only:
            g_x = g_x.to(g_read.dtype)
            g_x.view(B, T, D)[:, 0] += g_read
        else:
            g_x = g_read.add_(g_x)
        all_gradients = (*of_attention, *of_norm_1, *of_feed, *of_norm_2)
        gradients = (
            g.to(parameter.dtype) if need and g is not None else None
            for g, need, parameter in zip(all_gradients, ctx.needs_input_grad[3:], w, strict=True)
        )
        return g_x.view(B, T, D) if ctx.needs_input_grad[0] else None, None, None, *gradients


def _attend(
    x: torch.Tensor,
    read: torch.Tensor,
    mask: torch.Tensor | None,
    sizes: tuple[int, int, int],
    w: Weights[torch.Tensor],
    settings: Settings,
    *,
    flash: bool,
) -> tuple[torch.Tensor, _Attended | None]:
    """Compute attention from the tokens `read` (B * Q, D) to all tokens `x` (B * T, D), with its output projection.

    Args:
        sizes: B, Q and T.
        flash: compute the scores block by block. What a backward pass needs is then not there.
    """
    dtype, D, H = x.dtype, x.shape[1], settings.heads
    B, Q, T = sizes
    E = D // H
    w_query, w_out = w.query.to(dtype), w.out.to(dtype)
    w_key_value, bias = (torch.cat(pair).to(dtype) for pair in ((w.key, w.value), (w.key_bias, w.value_bias)))
    query = torch.addmm(w.query_bias.to(dtype), read, w_query.t())
    query = query[: B * Q].view(B, Q, H, E).transpose(1, 2)
    key_value = torch.addmm(bias, x, w_key_value.t())
    key_value = key_value[: B * T].view(B, T, 2, H, E).permute(2, 0, 3, 1, 4)
    mask = None if mask is None else mask[..., :Q, :]
    if flash:
        context = _flash(query, key_value, mask)
        return torch.addmm(w.out_bias.to(dtype), context, w_out.t())[: B * Q], None
    query, key_value = query.reshape(B * H, Q, E), key_value.reshape(2, B * H, T, E)
    scores = torch.bmm(query, key_value[0].transpose(1, 2)).mul_(E**-0.5)
    if mask is not None:
        scores.view(B, H, Q, T).add_(mask)
    # torch's kernels of the 16-bit formats take twice as long.
    shares = torch.softmax(scores, -1, dtype=torch.promote_types(dtype, torch.float32)).to(dtype)
    dropout = _mask(shares, settings.dropout[0], settings.draw)
    context = torch.bmm(shares if dropout is None else shares * dropout, key_value[1])
    context = _rows_of_heads(context, 1, B)
    out = torch.addmm(w.out_bias.to(dtype), context, w_out.t())[: B * Q]
    return out, _Attended(x, read, query, key_value, shares, dropout, context, w_query, w_key_value, w_out)


def _flash(query: torch.Tensor, key_value: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return the context of all heads by torch's attention kernel, as `_rows_of_heads` has it.

    Args:
        query: shape (B, H, Q, E).
        key_value: shape (2, B, H, T, E).
    """
    low_mask = None if mask is None else mask.to(query.dtype)
    context = nn.functional.scaled_dot_product_attention(query, key_value[0], key_value[1], attn_mask=low_mask)
    return _rows_of_heads(context, 1, len(query))


def _attend_backward(
    g: torch.Tensor, at: _Attended, B: int, settings: Settings, needed: Weights[bool]
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor | None, ...]]:
    """Return the gradients of `x`, of `read` and of the first eight weights, from that of the output projection."""
    H, Q, T, E = settings.heads, at.query.shape[1], *at.key_value.shape[2:]
    g_out, g_out_bias = _linear_backward(g, at.context, needed.out, needed.out_bias)
    g_context = (g @ at.w_out)[: B * Q].view(B, Q, H, E).transpose(1, 2).reshape(B * H, Q, E)
    g_key_value = torch.empty_like(at.key_value)
    torch.bmm(
        (at.shares if at.dropout is None else at.shares * at.dropout).transpose(1, 2), g_context, out=g_key_value[1]
    )
    g_shares = torch.bmm(g_context, at.key_value[1].transpose(1, 2))
    if at.dropout is not None:
        g_shares.mul_(at.dropout)
    wide = torch.promote_types(g.dtype, torch.float32)
    g_scores = torch._softmax_backward_data(g_shares.to(wide), at.shares.to(wide), -1, wide)
    g_scores = g_scores.mul_(E**-0.5).to(g.dtype)
    torch.bmm(g_scores.transpose(1, 2), at.query, out=g_key_value[0])
    g_query = _rows_of_heads(torch.bmm(g_scores, at.key_value[0]), 1, B)
    g_key_value = _rows_of_heads(g_key_value, 2, B)
    g_w_query, g_query_bias = _linear_backward(g_query, at.read, needed.query, needed.query_bias)
    g_w_both, g_both_bias = _linear_backward(
        g_key_value, at.x, needed.key or needed.value, needed.key_bias or needed.value_bias
    )
    keys, values = (None, None) if g_w_both is None else g_w_both.chunk(2)
    key_bias, value_bias = (None, None) if g_both_bias is None else g_both_bias.chunk(2)
    of_weights = (g_w_query, g_query_bias, keys, key_bias, values, value_bias, g_out, g_out_bias)
    return (g_key_value @ at.w_key_value)[: B * T], (g_query @ at.w_query)[: B * Q], of_weights


def _feed(x: torch.Tensor, rows: int, w: Weights[torch.Tensor]) -> tuple[torch.Tensor, _Fed]:
    """Compute the feed-forward network of `x`, (M, D), whose last rows are padding from `rows` on."""
    dtype = x.dtype
    w_up, w_down = w.up.to(dtype), w.down.to(dtype)
    up = torch.addmm(w.up_bias.to(dtype), x, w_up.t())
    active = nn.functional.gelu(up)
    return torch.addmm(w.down_bias.to(dtype), active, w_down.t())[:rows], _Fed(x, up, active, w_up, w_down)


def _feed_backward(
    g: torch.Tensor, rows: int, at: _Fed, needed: Weights[bool]
) -> tuple[torch.Tensor, tuple[torch.Tensor | None, ...]]:
    """Return the gradients of the input and of the four weights."""
    of_down = _linear_backward(g, at.active, needed.down, needed.down_bias)
    g_up = torch.ops.aten.gelu_backward(g @ at.w_down, at.up)
    return (g_up @ at.w_up)[:rows], (*_linear_backward(g_up, at.x, needed.up, needed.up_bias), *of_down)


def _linear_backward(
    g: torch.Tensor, x: torch.Tensor, weight: bool, bias: bool
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Return the needed gradients of a linear layer's weight and bias, from that of its output and its input."""
    return g.t() @ x if weight else None, g.sum(0) if bias else None


def _norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> tuple[torch.Tensor, _Normed]:
    y, mean, rstd = torch.native_layer_norm(x, (x.shape[-1],), weight, bias, eps)
    return y, _Normed(x, mean, rstd)


def _norm_backward(
    g: torch.Tensor, at: _Normed, weight: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    g_x, g_weight, g_bias = torch.ops.aten.native_layer_norm_backward(
        g.to(at.x.dtype), at.x, (at.x.shape[-1],), at.mean, at.rstd, weight, bias, (True, True, True)
    )
    return g_x, (g_weight, g_bias)


def _mask(like: torch.Tensor, rate: float, draw: Draw) -> torch.Tensor | None:
    return None if rate == 0 else draw(like.shape, rate, like.dtype)


def _drop_and_add(
    part: torch.Tensor, stream: torch.Tensor, rate: float, draw: Draw
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Apply dropout to `part`, (M, D), and add `stream`; return the sum and the mask."""
    dropout = _mask(part, rate, draw)
    return stream + (part if dropout is None else part.mul_(dropout)), dropout


def _drop_backward(g: torch.Tensor, dropout: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    low = _low(g, dtype)
    if dropout is not None:
        low[: len(g)].mul_(dropout)
    return low


def _low(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Cast `x`, (M, D), to `dtype`, padded with rows of zeros to a multiple of `ROWS`."""
    rows, width = x.shape
    low = torch.empty(-(-rows // ROWS) * ROWS, width, dtype=dtype)
    low[:rows].copy_(x)
    low[rows:].zero_()
    return low


def _rows_of_heads(x: torch.Tensor, kinds: int, B: int) -> torch.Tensor:
    """Bring `kinds` tensors (B, H, T, E) into rows by token, (B * T, kinds * D), padded as in `_low`."""
    T, E = x.shape[-2:]
    H = x.numel() // (kinds * B * T * E)
    low = x.new_empty(-(-B * T // ROWS) * ROWS, kinds * H * E)
    low[: B * T].view(B, T, kinds, H, E).copy_(x.view(kinds, B, H, T, E).permute(1, 3, 0, 2, 4))
    low[B * T :].zero_()
    return low
