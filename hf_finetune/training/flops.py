"""How much of the hardware a run used: floating-point operations of its real tokens over the fastest matrix product.

Operations are those that the mathematics asks for, padding and recomputation left out: the "model FLOPs" of PaLM
(arXiv:2204.02311, appendix B). A product of (M, K) and (K, N) counts 2 M K N.

Legend: B rows, T tokens, D width.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedConfig, PreTrainedModel

from hf_finetune.data.inputs import EpochRows
from hf_finetune.evaluation.logits import to_device
from hf_finetune.models.freezing import as_in_training

Batch = Mapping[str, Any]


@dataclass(frozen=True)
class Utilization:
    """What one process's training did and could have done."""

    trained: float
    """Floating-point operations of all real tokens that were trained on, forward and backward."""
    peak: float
    """Operations per second of the fastest matrix product."""
    dtype: str
    """Number format of that product."""
    seconds: float
    """Wall-clock of the training loop."""

    @property
    def share(self) -> float:
        """Share of the peak that the training reached."""
        return self.trained / self.seconds / self.peak

    def to_dict(self) -> dict[str, Any]:
        """As result.json has it."""
        return {"trained": self.trained, "gemm_peak_per_s": self.peak, "gemm_dtype": self.dtype}


class WorkCounter:
    """Counts what one process trains on."""

    def __init__(self) -> None:
        self.rows = self.tokens = 0
        self.images: Counter[tuple[int, ...]] = Counter()
        """Images by the shape of one's tensor."""

    def add(self, batch: Batch, config: PreTrainedConfig) -> None:
        """A micro-batch, before it goes to the device."""
        rows = len(batch["labels"])
        self.rows += rows
        self.tokens += real_tokens(batch, config)
        if "pixel_values" in batch:
            self.images[tuple(batch["pixel_values"].shape[1:])] += rows


def real_tokens(batch: Batch, config: PreTrainedConfig) -> int:
    """Tokens of a batch without padding, before it goes to the device: nobody waits. No mask: every token is real."""
    if "attention_mask" in batch:
        return int(batch["attention_mask"].sum())
    if "input_ids" in batch:
        return batch["input_ids"].numel()
    if "inputs_embeds" in batch:
        return batch["inputs_embeds"].shape[:2].numel()
    if "pixel_values" in batch:
        return len(batch["pixel_values"]) * patches(config, tuple(batch["pixel_values"].shape[1:]))
    return 0


def _attention(query: tuple, key: tuple, value: tuple, *_: object, **__: object) -> int:
    *rows, tokens, width = query
    return 2 * int(np.prod(rows)) * tokens * key[-2] * (width + value[-1])


def _attention_backward(_grad: tuple, query: tuple, key: tuple, value: tuple, *_: object, **__: object) -> int:
    # Each of the two products has two gradients; that the kernel computes the scores a second time is its own affair.
    return 2 * _attention(query, key, value)


# What `FlopCounterMode` does not know.
_CPU_KERNELS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def training_flops(model: PreTrainedModel, batch: Batch) -> int:
    """Operations of one forward and backward pass as autograd runs them, counted by `torch.utils.flop_counter`.

    So a trained layer counts three times its forward pass, a frozen prefix once, the lowest trained layer without the
    gradient of its input, and layers that a batch of cached activations passes over not at all; nor what a run leaves
    out because nothing reads it. Embeddings are looked up, not multiplied. Weights, statistics, gradients and
    generators are left as they are.

    Args:
        model: a classifier whose output has `logits`.
        batch: its inputs, without padding.
    """
    gradients = [(p, p.grad) for p in model.parameters() if p.requires_grad]
    devices = [model.device] if model.device.type == "cuda" else []
    counter = FlopCounterMode(display=False, custom_mapping=_CPU_KERNELS)
    try:
        # As while training: layers that drop tokens do so then only.
        with as_in_training(model), torch.random.fork_rng(devices=devices), torch.enable_grad(), counter:
            # Not autograd.grad: the counter's hooks on DeBERTa's shared embeddings do not allow it.
            for parameter, _ in gradients:
                parameter.grad = None
            model(**batch).logits.float().sum().backward()
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
    return counter.get_total_flops()


def flops_of_rows(
    model: PreTrainedModel, rows: EpochRows, collate: Callable[[Any], Batch], lengths_N: np.ndarray
) -> np.ndarray:
    """Operations of training on each row once, shape (N,).

    Counted on three rows, the shortest, the longest and one between them; for the others read off the parabola through
    these, because a transformer's operations are head + layers T + attention T^2.

    Args:
        rows: `rows[[i]]`-style dataset, see `data.inputs.Rows`.
        lengths_N: shape (N,), tokens of each row.
    """
    values, first = np.unique(lengths_N, return_index=True)
    chosen = first[sorted({0, len(values) // 2, len(values) - 1})]
    batches = [to_device(collate(rows.__getitems__([int(row)])), model.device) for row in chosen]
    counted = [training_flops(model, batch) for batch in batches]
    parabola = np.polyfit(lengths_N[chosen].astype(float), np.array(counted, dtype=float), len(chosen) - 1)
    return np.polyval(parabola, lengths_N.astype(float))


def measure(
    model: PreTrainedModel,
    *,
    rows: EpochRows,
    collate: Callable[[Any], Batch],
    lengths: np.ndarray | None,
    rows_trained: int,
    images: Mapping[tuple[int, ...], int],
    seconds: float,
    dtype: torch.dtype,
) -> Utilization | None:
    """What one process's training loop did, against the peak of the settings it ran with. Takes about a second.

    Args:
        rows: what was trained on.
        collate: as the loop's.
        lengths: shape (N,), tokens of each row; None: images.
        rows_trained: rows that went through the model, epochs counted; each row of `rows` about as often as another.
        images: rows that went through the model by the shape of one image's tensor.
        seconds: the loop's wall-clock.
        dtype: of the loop's matrix products.

    Returns:
        None when no row was trained.
    """
    if rows_trained == 0:
        return None
    if lengths is not None:
        trained = float(flops_of_rows(model, rows, collate, lengths).mean() * rows_trained)
    else:
        blank = {s: {"pixel_values": torch.zeros(1, *s, device=model.device)} for s in images}
        trained = float(sum(n * training_flops(model, blank[s]) for s, n in images.items()))
    widths = Counter(m.in_features for m in model.modules() if isinstance(m, nn.Linear))
    peak = gemm_peak(dtype, model.device, width=widths.most_common(1)[0][0] if widths else 768)
    return Utilization(trained, peak, str(dtype).removeprefix("torch."), seconds)


def patches(config: PreTrainedConfig, shape: tuple[int, ...]) -> int:
    """Tokens of one image: the patches that a transformer cuts it into, or those that are cached; 0 for other networks.

    Args:
        shape: of one image's tensor, (3, H, W), or (T, D) of its activations.
    """
    if len(shape) == 2:
        return shape[0]
    size = config.to_dict().get("patch_size")
    if size is None:
        return 0
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return (shape[1] // height) * (shape[2] // width)


@torch.no_grad()
def gemm_peak(dtype: torch.dtype, device: torch.device, *, width: int = 768, budget_s: float = 0.6) -> float:
    """Operations per second of the fastest of a few matrix products, in this process and with its present settings.

    Args:
        width: D of the model; products of 1,024 tokens with its (D, 4 D) and (4 D, D) matrices are among those timed.
        budget_s: stop after about so many seconds.
    """
    products = []
    for rows, inner, outer in ((1024, width, 4 * width), (1024, 4 * width, width), (2048, 2048, 2048)):
        left, right = (torch.randn(n, inner, dtype=dtype, device=device) for n in (rows, outer))
        products.append((left, right, 2 * rows * inner * outer))

    def seconds(left: torch.Tensor, right: torch.Tensor) -> float:
        started = time.perf_counter()
        F.linear(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    best, until, rounds = 0.0, time.perf_counter() + budget_s, 0
    while rounds < 2 or time.perf_counter() < until:
        for left, right, operations in products:
            took = seconds(left, right)
            # The first of each pays for the choice of a kernel.
            best = max(best, operations / took) if rounds else best
        rounds += 1
    return best
