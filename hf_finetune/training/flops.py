"""FLOP utilization: a run's floating-point operations over those of the fastest matrix product.

Padding and recomputation do not count: these are the "model FLOPs" of PaLM (arXiv:2204.02311, appendix B). A product of
(M, K) and (K, N) counts 2 M K N.

Legend: B rows, T tokens, D width.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedConfig, PreTrainedModel

from hf_finetune.data.inputs import EpochRows, without_votes
from hf_finetune.data.word_inputs import WORD_PLACES
from hf_finetune.evaluation.logits import to_device
from hf_finetune.models.freezing import as_in_training

Batch = Mapping[str, Any]
PEAK_S, SHORT_LOOP_S, SHORT_PEAK_S = 0.6, 10.0, 0.06
"""Seconds in which the peak is measured; after a shorter loop of training, fewer."""


@dataclass(frozen=True)
class Utilization:
    """The operations of one process's training, and the peak of its hardware."""

    trained: float
    """Floating-point operations of all real tokens, forward and backward."""
    peak: float
    """Operations of the fastest matrix product per second."""
    dtype: str
    """Number format of that product."""
    seconds: float
    """Wall-clock of the training loop."""

    @property
    def share(self) -> float:
        """Share of the peak."""
        return self.trained / self.seconds / self.peak

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of result.json."""
        return {"trained": self.trained, "gemm_peak_per_s": self.peak, "gemm_dtype": self.dtype}


class WorkCounter:
    """Counts the rows and tokens that one process trains on."""

    def __init__(self) -> None:
        self.rows = self.tokens = 0
        self.images: Counter[tuple[int, ...]] = Counter()
        """Number of images by the shape of one image's tensor."""

    def add(self, batch: Batch, config: PreTrainedConfig) -> None:
        """Count a micro-batch, before it is moved to the device."""
        rows = len(batch["labels"])
        if WORD_PLACES in batch:  # A word has a label.
            rows = len(batch.get("input_ids", batch.get("inputs_embeds")))
        self.rows += rows
        self.tokens += real_tokens(batch, config)
        if "pixel_values" in batch:
            self.images[tuple(batch["pixel_values"].shape[1:])] += rows


def real_tokens(batch: Batch, config: PreTrainedConfig) -> int:
    """Count the tokens of a batch on the CPU without padding. Without a mask all tokens are real."""
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
    # Each of the two products has two gradients. The kernel's recomputation of the scores does not count.
    return 2 * _attention(query, key, value)


# Kernels that `FlopCounterMode` does not know.
_CPU_KERNELS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def training_flops(model: PreTrainedModel, batch: Batch) -> int:
    """Count the operations of one forward and backward pass as autograd runs them, by `torch.utils.flop_counter`.

    A trained layer counts three times its forward pass, a frozen prefix once, and the lowest trained layer lacks the
    gradient of its input. Layers below cached activations and outputs that nothing reads do not count. Embeddings are
    looked up, not multiplied. Weights, statistics, gradients and random generators stay as they are.

    Args:
        model: a classifier whose output has `logits`.
        batch: the model's inputs, without padding.
    """
    gradients = [(p, p.grad) for p in model.parameters() if p.requires_grad]
    devices = [model.device] if model.device.type == "cuda" else []
    counter = FlopCounterMode(display=False, custom_mapping=_CPU_KERNELS)
    try:
        # In training mode: some layers drop tokens only there.
        with as_in_training(model), torch.random.fork_rng(devices=devices), torch.enable_grad(), counter:
            # autograd.grad fails with the counter's hooks on DeBERTa's shared embeddings.
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
    """Return the operations of training on each row once, shape (N,).

    Counts the shortest row, the longest and one between. The others follow from the parabola through these three,
    because a transformer's operations are head + layers T + attention T^2.

    Args:
        rows: reads rows by lists of indices, see `data.inputs.Rows`.
        lengths_N: shape (N,), tokens of each row.
    """
    values, first = np.unique(lengths_N, return_index=True)
    sample = first[sorted({0, len(values) // 2, len(values) - 1})]
    batches = [to_device(without_votes(collate(rows.__getitems__([int(row)]))), model.device) for row in sample]
    counts = np.array([training_flops(model, batch) for batch in batches], dtype=float)
    parabola = np.polyfit(lengths_N[sample].astype(float), counts, len(sample) - 1)
    return np.polyval(parabola, lengths_N.astype(float))


def measure(
    model: PreTrainedModel,
    work: WorkCounter,
    *,
    passes: int,
    rows: EpochRows,
    collate: Callable[[Any], Batch],
    lengths: np.ndarray | None,
    seconds: float,
    dtype: torch.dtype,
) -> Utilization | None:
    """Compare one process's training loop with the peak of its settings. Takes about a second the first time.

    Args:
        work: the loop's rows; each row of `rows` was trained about equally often.
        passes: forward passes of each row in a step.
        rows: the training rows.
        collate: the loop's.
        lengths: shape (N,), tokens of each row; None for images.
        seconds: the loop's wall-clock seconds.
        dtype: number format of the loop's matrix products.

    Returns:
        None if no row was trained.
    """
    if work.rows == 0:
        return None
    if lengths is not None:
        trained = float(flops_of_rows(model, rows, collate, lengths).mean() * (passes * work.rows))
    else:
        blank = {s: {"pixel_values": torch.zeros(1, *s, device=model.device)} for s in work.images}
        trained = float(sum(passes * n * training_flops(model, blank[s]) for s, n in work.images.items()))
    widths = Counter(m.in_features for m in model.modules() if isinstance(m, nn.Linear))
    width, budget_s = widths.most_common(1)[0][0] if widths else 768, PEAK_S if seconds > SHORT_LOOP_S else SHORT_PEAK_S
    peak = gemm_peak(dtype, model.device, width=width, budget_s=budget_s)
    return Utilization(trained, peak, str(dtype).removeprefix("torch."), seconds)


def patches(config: PreTrainedConfig, shape: tuple[int, ...]) -> int:
    """Return the tokens of one image: a transformer's patches, or cached tokens; 0 for other networks.

    Args:
        shape: shape of one image's tensor, (3, H, W), or of its cached activations, (T, D).
    """
    if len(shape) == 2:
        return shape[0]
    size = getattr(config, "patch_size", None)  # each time: to_dict copies all names of classes
    if size is None:
        return 0
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return (shape[1] // height) * (shape[2] // width)


def gemm_peak(dtype: torch.dtype, device: torch.device, *, width: int = 768, budget_s: float = PEAK_S) -> float:
    """Measure the operations per second of the fastest of three matrix products, with the process's present settings.

    Once for each of them: a process of many runs, such as a search, would spend more time on it than on short runs.

    Args:
        width: the model's D. Two products are those of 1,024 tokens with (D, 4 D) and (4 D, D) matrices.
        budget_s: stop after about so many seconds.
    """
    settings = torch.get_num_threads(), torch.get_float32_matmul_precision()
    return _measured_peak(dtype, device, width, budget_s, settings)


@cache
@torch.no_grad()
def _measured_peak(
    dtype: torch.dtype, device: torch.device, width: int, budget_s: float, settings: tuple[int, str]
) -> float:
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
            speed = operations / seconds(left, right)
            # Leave out the first round, which includes the choice of a kernel.
            best = max(best, speed) if rounds else best
        rounds += 1
    return best
