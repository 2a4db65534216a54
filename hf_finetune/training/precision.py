"""Number formats and kernels: what the hardware multiplies natively, how exactly, and the settings of a process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from hf_finetune.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Relative error against float64 up to which a float32 matrix product counts as exact: float32's own is below 1e-6 at
# the widths in use, one in bfloat16 is above 1e-3.
EXACT = 1e-5
Format = Literal["no", "bf16", "fp16"]
"""Of matrix products under autocast; no: float32."""


@dataclass(frozen=True)
class Kernels:
    """How a model is computed, the weights being float32."""

    mixed_precision: Format
    float32_matmul: str
    """Argument of `torch.set_float32_matmul_precision`."""
    attention: str
    """Argument of `model.set_attn_implementation`."""
    threads: int

    def switch_on(self, model: PreTrainedModel) -> None:
        """Set them on a transformers model and in this process; autocast is left to the caller."""
        if model.config._attn_implementation != self.attention:
            model.set_attn_implementation(self.attention)
        torch.set_float32_matmul_precision(self.float32_matmul)
        torch.set_num_threads(self.threads)


@contextmanager
def settings_restored() -> Iterator[None]:
    """The number of threads and the float32 setting of this process after the block are those from before it."""
    threads, setting = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(setting)


@contextmanager
def exact_float32() -> Iterator[None]:
    """Highest precision of float32 matrix products inside, the former setting after."""
    with settings_restored():
        torch.set_float32_matmul_precision("highest")
        yield


def matmul_error(setting: str) -> float:
    """Relative error of a float32 matrix product on this CPU under a setting of `torch.set_float32_matmul_precision`.

    The norm of the difference from float64, over the norm; 256 x 512 by 512 x 512, normal entries.
    """
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(256, 512, generator=generator), torch.randn(512, 512, generator=generator)
    exact = left.double() @ right.double().T
    with settings_restored():
        torch.set_float32_matmul_precision(setting)
        product = torch.nn.functional.linear(left, right)
    return float((product - exact).norm() / exact.norm())


def attention_kernels(model: PreTrainedModel) -> tuple[str, ...]:
    """The attention kernels of `eager` and `sdpa` that a loaded transformers model can run, the present one first."""
    present = str(model.config._attn_implementation)
    kernels = [present]
    for other in ("eager", "sdpa"):
        if other != present:
            try:
                model.set_attn_implementation(other)
            except (ValueError, ImportError):
                continue
            # A family without attention, or with its own, says so in the log alone.
            if model.config._attn_implementation == other:
                kernels.append(other)
    model.set_attn_implementation(present)
    return tuple(kernels)


def has_native_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 in hardware. A CPU without it is slower in bfloat16 than in float32."""
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def resolve_mixed_precision(choice: Literal["auto", "no", "bf16", "fp16"], device: torch.device) -> Format:
    """Turn the recipe's choice into the one that runs.

    `auto` follows `accelerate launch --mixed_precision` where it was given, else takes bf16 where it is native.

    Raises:
        InputError: fp16 on a CPU (there is no scaler for it), or bf16 on a device without it.
    """
    if choice == "auto":
        choice = launched() or ("bf16" if has_native_bf16(device) else "no")
    if choice == "fp16" and device.type == "cpu":
        raise InputError("precision.mixed_precision: fp16 needs a GPU; on this CPU use bf16 or no")
    if choice == "bf16" and not has_native_bf16(device):
        raise InputError(f"precision.mixed_precision: this {device.type} does not multiply bf16 natively; use no")
    return choice


def launched() -> Format | None:
    """What `accelerate launch --mixed_precision` asked for."""
    requested = os.environ.get("ACCELERATE_MIXED_PRECISION", "")
    choices: tuple[Literal["no", "bf16", "fp16"], ...] = ("no", "bf16", "fp16")
    return next((choice for choice in choices if choice == requested), None)


def default_device() -> torch.device:
    """The accelerator of this process, else the CPU (also when `accelerate launch` was told to use the CPU)."""
    wants_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    if torch.cuda.is_available() and not wants_cpu:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")
