"""What a checkpoint keeps of an adapter in training: every weight that trains, as it is, and AdaLoRA's ledger.

peft's own format is made for use, not for going on: a prompt loses the network that makes it, AdaLoRA the ranks that
are cut for now, and neither loads into a model that trains.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraConfig, PeftModel
from safetensors.torch import load_file, save_file

from hf_finetune.errors import InputError

FILE = "adapter_state.safetensors"


def save_state(adapted: PeftModel, folder: Path) -> None:
    """Write `FILE` into a checkpoint's folder."""
    tensors = {f"weight:{n}": p.detach().cpu().contiguous() for n, p in adapted.named_parameters() if p.requires_grad}
    config = adapted.active_peft_config
    if isinstance(config, AdaLoraConfig):
        ledger = _ledger(adapted)
        tensors |= {f"importance:{n}": t.cpu() for n, t in ledger.exp_avg_ipt.items()}
        tensors |= {f"uncertainty:{n}": t.cpu() for n, t in ledger.exp_avg_unc.items()}
        tensors |= {f"kept:{n}": torch.tensor(mask) for n, mask in (config.rank_pattern or {}).items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / FILE, metadata={"format": "pt"})


@torch.no_grad()
def load_state(adapted: PeftModel, folder: Path) -> None:
    """Make the adapter what it was when `save_state` wrote the folder.

    Raises:
        InputError: it was written for another adapter.
    """
    tensors = load_file(folder / FILE)
    weights = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
    saved = {n.removeprefix("weight:"): t for n, t in tensors.items() if n.startswith("weight:")}
    if saved.keys() != weights.keys() or any(saved[n].shape != p.shape for n, p in weights.items()):
        raise InputError(f"{folder}: its weights are those of another adapter; start the run anew in another --output")
    for name, parameter in weights.items():
        parameter.copy_(saved[name])
    config = adapted.active_peft_config
    if isinstance(config, AdaLoraConfig):
        device, ledger = adapted.device, _ledger(adapted)
        ledger.reset_ipt()
        for name, tensor in tensors.items():
            kind, _, own = name.partition(":")
            if kind == "importance":
                # The first is peft's sign that this weight has a ledger; a step sets it before it reads it.
                ledger.ipt[own] = torch.zeros_like(tensor, device=device)
                ledger.exp_avg_ipt[own] = tensor.to(device)
            elif kind == "uncertainty":
                ledger.exp_avg_unc[own] = tensor.to(device)
        ranks = {n.removeprefix("kept:"): t.tolist() for n, t in tensors.items() if n.startswith("kept:")}
        config.rank_pattern = ranks or None


def _ledger(adapted: PeftModel) -> Any:
    """What AdaLoRA remembers of each weight's importance."""
    return adapted.base_model.rankallocator
