"""Fast dropout on a CPU.

On a CPU, torch draws dropout masks one Bernoulli number at a time: at 23 tokens per row this takes a seventh of a
training step of a small BERT, as much as a layer. Here random 64-bit words, read as 16-bit integers, give one long mask
per forward pass, and each dropout site multiplies by a slice of it with a random start. Within a site the elements of
the mask are independent; the masks of two sites of one forward pass may overlap with a shift.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from hf_finetune.models.freezing import as_in_training
from hf_finetune.models.kernels.class_swap import ClassSwap, attention_kernel, swapped_classes

ATTENTION = "eager_fast_dropout"
# Length of the mask, in multiples of the largest site: the longer it is, the less two sites overlap.
LENGTHS_OF_SITE = 2


class Masks:
    """The dropout masks of one forward pass: 0 or 1 / (1 - rate), drawn from torch's global generator."""

    def __init__(self) -> None:
        self._masks: dict[tuple[float, torch.dtype], torch.Tensor] = {}

    def renew(self) -> None:
        """Forget all masks, so that the next use draws new ones."""
        self._masks.clear()

    def __call__(self, x: torch.Tensor, rate: float) -> torch.Tensor:
        """Return `x`, of any shape, with a share `rate` of its elements set to 0 and the others scaled up."""
        return x * self.piece(x.shape, rate, x.dtype)

    def piece(self, shape: torch.Size, rate: float, dtype: torch.dtype) -> torch.Tensor:
        """Return a mask of this shape for one dropout site."""
        size, key = math.prod(shape), (rate, dtype)
        mask = self._masks.get(key)
        if mask is None or len(mask) < size:
            mask = self._masks[key] = random_mask(LENGTHS_OF_SITE * size, rate, dtype)
        start = int(torch.randint(len(mask) - size + 1, ()))
        return mask[start : start + size].view(shape)


def random_mask(
    size: int, rate: float, dtype: torch.dtype, *, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Return a dropout mask: 0 with probability `rate`, rounded to 1 / 65536, else 1 / (1 - rate).

    Args:
        size: number of elements.
        generator: source of the random numbers, on its device. None: torch's global CPU generator.

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
    """`nn.Dropout` that multiplies by a slice of the forward pass's mask."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply dropout to a tensor of any shape."""
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
    """Compute transformers' eager attention, with dropout from the forward pass's mask.

    Args:
        query, key, value: shape (B, H, T, D) for B rows, H heads, T tokens and D features per head.
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
    """Make the model's dropout layers and its eager attention use the masks of this module, in the context.

    Evaluation mode and saved files do not change. Families without exchangeable attention keep their own.
    """
    layers = [ClassSwap(module, FastDropout, {}) for module in model.modules() if type(module) is nn.Dropout]
    with ExitStack() as stack:
        stack.enter_context(swapped_classes(layers))
        if model.config._attn_implementation == "eager" and model._supports_attention_backend:
            AttentionInterface.register(ATTENTION, eager_attention)
            AttentionMaskInterface.register(ATTENTION, eager_mask)
            stack.enter_context(attention_kernel(model, ATTENTION))
        stack.callback(masks.renew)
        stack.callback(model.register_forward_pre_hook(lambda *_: masks.renew()).remove)
        yield


@torch.no_grad()
def drops_out(model: nn.Module, batch: dict[str, torch.Tensor]) -> bool:
    """Whether two forward passes in training mode differ; torch's generators stay as they were.

    Args:
        batch: a few encoded rows on the model's device.
    """
    with as_in_training(model), torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = model(**batch)[0], model(**batch)[0]
    return not torch.equal(first, second)
