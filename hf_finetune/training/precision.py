"""Number formats: what the hardware multiplies natively."""

from __future__ import annotations

import os
from typing import Literal

import torch

from hf_finetune.errors import InputError


def has_native_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 in hardware. A CPU without it is slower in bfloat16 than in float32."""
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def resolve_mixed_precision(
    choice: Literal["auto", "no", "bf16", "fp16"], device: torch.device
) -> Literal["no", "bf16", "fp16"]:
    """Turn the recipe's choice into the one that runs.

    `auto` follows `accelerate launch --mixed_precision` where it was given, else takes bf16 where it is native.

    Raises:
        InputError: fp16 on a CPU (there is no scaler for it), or bf16 on a device without it.
    """
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "")
    if choice == "auto":
        choice = launched if launched in ("no", "bf16", "fp16") else "bf16" if has_native_bf16(device) else "no"
    if choice == "fp16" and device.type == "cpu":
        raise InputError("precision.mixed_precision: fp16 needs a GPU; on this CPU use bf16 or no")
    if choice == "bf16" and not has_native_bf16(device):
        raise InputError(f"precision.mixed_precision: this {device.type} does not multiply bf16 natively; use no")
    return choice


def default_device() -> torch.device:
    """The accelerator of this process, else the CPU (also when `accelerate launch` was told to use the CPU)."""
    wants_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    if torch.cuda.is_available() and not wants_cpu:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")
