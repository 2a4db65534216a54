"""Number formats and kernels: what the hardware computes natively, how exactly, and a process's settings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch

from hf_finetune.errors import InputError
from hf_finetune.training.config import MixedPrecision

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EXACT = 1e-5
"""Relative error against float64 up to which a float32 matrix product counts as exact. Float32's own is below 1e-6 at
usual widths, bfloat16's above 1e-3."""
Float32Matmul = Literal["highest", "medium"]
Format = Literal["no", "bf16", "fp16"]
"""Format of matrix products under autocast; no: float32."""


@dataclass(frozen=True)
class Kernels:
    """How a model with float32 weights is computed."""

    mixed_precision: Format
    float32_matmul: str
    """Argument of `torch.set_float32_matmul_precision`."""
    attention: str
    """Argument of `model.set_attn_implementation`."""
    threads: int

    def switch_on(self, model: PreTrainedModel) -> None:
        """Apply them to a transformers model and this process, except autocast."""
        if model.config._attn_implementation != self.attention:
            model.set_attn_implementation(self.attention)
        torch.set_float32_matmul_precision(self.float32_matmul)
        torch.set_num_threads(self.threads)


@contextmanager
def settings_restored() -> Iterator[None]:
    """Restore the process's thread count and float32 precision after the block."""
    threads, setting = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(setting)


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute float32 matrix products at the highest precision in the block."""
    with settings_restored():
        torch.set_float32_matmul_precision("highest")
        yield


def matmul_error(setting: str) -> float:
    """Measure the relative error of a float32 matrix product on this CPU.

    The product is 256 x 512 by 512 x 512 with normal entries; the error is the norm of the difference from float64 over
    the norm.

    Args:
        setting: of `torch.set_float32_matmul_precision`.
    """
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(256, 512, generator=generator), torch.randn(512, 512, generator=generator)
    exact = left.double() @ right.double().T
    with settings_restored():
        torch.set_float32_matmul_precision(setting)
        product = torch.nn.functional.linear(left, right)
    return float((product - exact).norm() / exact.norm())


def fastest_exact_float32() -> Float32Matmul:
    """Return the setting of float32 matrix products that a CPU computes fastest and exactly.

    medium calls oneDNN, which on most CPUs computes float32 faster than the library of highest, and on some bfloat16.
    """
    is_exact = default_device().type == "cpu" and matmul_error("medium") <= EXACT
    return "medium" if is_exact else "highest"


def attention_kernels(model: PreTrainedModel) -> tuple[str, ...]:
    """Return the present attention kernel, and those of eager and sdpa that the model can run, too."""
    present = str(model.config._attn_implementation)
    kernels = [present]
    for other in ("eager", "sdpa"):
        if other != present:
            try:
                model.set_attn_implementation(other)
            except (ValueError, ImportError):
                continue
            # A family without attention, or with its own, ignores the setting with a log message.
            if model.config._attn_implementation == other:
                kernels.append(other)
    model.set_attn_implementation(present)
    return tuple(kernels)


def has_native_bf16(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 natively. Other CPUs are slower in bfloat16 than in float32."""
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def resolve_mixed_precision(choice: MixedPrecision, device: torch.device) -> Format:
    """Resolve `auto`: the format of `accelerate launch --mixed_precision` if set, else bf16 where it is native.

    Raises:
        InputError: fp16 on a CPU, which has no loss scaler, or bf16 where it is not native.
    """
    if choice == "auto":
        choice = launched() or ("bf16" if has_native_bf16(device) else "no")
    if choice == "fp16" and device.type == "cpu":
        raise InputError("precision.mixed_precision: fp16 needs a GPU; on this CPU use bf16 or no")
    if choice == "bf16" and not has_native_bf16(device):
        raise InputError(f"precision.mixed_precision: this {device.type} does not multiply bf16 natively; use no")
    return choice


def launched() -> Format | None:
    """Return the format of `accelerate launch --mixed_precision`, or None."""
    requested = os.environ.get("ACCELERATE_MIXED_PRECISION", "")
    return next((choice for choice in get_args(Format) if choice == requested), None)


def default_device() -> torch.device:
    """Return the accelerator of this process, else the CPU. `accelerate launch --cpu` forces the CPU."""
    wants_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    if torch.cuda.is_available() and not wants_cpu:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")
