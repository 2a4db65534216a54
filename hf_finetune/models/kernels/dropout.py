"""Dropout whose masks cost little on a CPU.

torch draws a CPU's dropout masks one Bernoulli number at a time: at 23 tokens a row that is a seventh of a training
step of a small BERT, as much as a layer. Here a few random words, read as 16-bit integers, make one long mask a forward
pass, and each dropout site multiplies by a piece of it that begins at a random place. Within a site the mask is
independent for every element; the masks of two sites of one forward pass may overlap, shifted against each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from hf_finetune.models.freezing import as_in_training
from hf_finetune.models.kernels.exchange import Exchange, attention_kernel, exchanged

ATTENTION = "eager_fast_dropout"
# The mask is this many times as long as the largest site: the more, the less two sites have in common.
LENGTHS_OF_SITE = 2


class Masks:
    """Masks of one forward pass: values 0 and 1 / (1 - rate), drawn from torch's global generator."""

    def __init__(self) -> None:
        self._drawn: dict[tuple[float, torch.dtype], torch.Tensor] = {}

    def renew(self) -> None:
        """Draw anew at the next use."""
        self._drawn.clear()

    def __call__(self, x: torch.Tensor, rate: float) -> torch.Tensor:
        """`x` with a share `rate` of its elements set to 0 and the others scaled up; any shape."""
        return x * self.piece(x.shape, rate, x.dtype)

    def piece(self, shape: torch.Size, rate: float, dtype: torch.dtype) -> torch.Tensor:
        """A mask of this shape for one site."""
        size, key = math.prod(shape), (rate, dtype)
        drawn = self._drawn.get(key)
        if drawn is None or len(drawn) < size:
            drawn = self._drawn[key] = random_mask(LENGTHS_OF_SITE * size, rate, dtype)
        start = int(torch.randint(len(drawn) - size + 1, ()))
        return drawn[start : start + size].view(shape)


def random_mask(
    size: int, rate: float, dtype: torch.dtype, *, generator: torch.Generator | None = None
) -> torch.Tensor:
    """A dropout mask: 0 with probability `rate`, to 1 / 65536, and else 1 / (1 - rate).

    Args:
        size: number of elements.
        generator: whose numbers are used, on its device. None: torch's global one of the CPU.

    Returns:
        Shape (size,).
    """
    device = None if generator is None else generator.device
    words = torch.empty(-(-size // 4), dtype=torch.int64, device=device).random_(-(2**63), None, generator=generator)
    dropped = min(round(rate * 2**16), 2**16 - 1)
    survives = words.view(torch.int16)[:size] >= dropped - 2**15
    return survives.to(dtype).mul_(2**16 / (2**16 - dropped))


masks = Masks()


class FastDropout(nn.Dropout):
    """`nn.Dropout` that multiplies by a piece of the forward pass's mask."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape in, the same out."""
        return masks(x, self.p) if self.training and 0 < self.p < 1 else super().forward(x)


def eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: object,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Transformers' eager attention, its dropout from the forward pass's mask.

    Args:
        query: shape (B, H, T, D) for B rows, H heads, T tokens and D features a head; likewise key and value.
        attention_mask: added to the scores, broadcast to (B, H, T, T).

    Returns:
        The context (B, T, H, D) and the weights (B, H, T, T).
    """
    scores = torch.matmul(query, key.transpose(2, 3)) * (query.size(-1) ** -0.5 if scaling is None else scaling)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1)
    if module.training and dropout > 0:
        weights = masks(weights, dropout)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


@contextmanager
def fast_dropout(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the model's dropout layers and its eager attention take their masks from here; after, they are as before.

    Nothing changes in evaluation mode, nor in what is saved. Families whose attention cannot be exchanged keep theirs.
    """
    layers = [Exchange(module, FastDropout, {}) for module in model.modules() if type(module) is nn.Dropout]
    with ExitStack() as stack:
        stack.enter_context(exchanged(layers))
        if model.config._attn_implementation == "eager" and model._supports_attention_backend:
            AttentionInterface.register(ATTENTION, eager_attention)
            AttentionMaskInterface.register(ATTENTION, eager_mask)
            stack.enter_context(attention_kernel(model, ATTENTION))
        stack.callback(masks.renew)
        stack.callback(model.register_forward_pre_hook(lambda *_: masks.renew()).remove)
        yield


@torch.no_grad()
def drops_out(model: nn.Module, batch: dict[str, torch.Tensor]) -> bool:
    """Whether two passes of the same rows give different outputs in training mode. No random number is used up.

    Args:
        batch: a few rows as the model takes them, on its device.
    """
    with as_in_training(model), torch.random.fork_rng():
        torch.manual_seed(0)
        one, other = model(**batch)[0], model(**batch)[0]
    return not torch.equal(one, other)
