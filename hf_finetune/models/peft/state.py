"""Save and load the state of an adapter in training: all trainable weights, and AdaLoRA's importance scores.

peft's own format cannot resume training: it drops the network that computes a prompt and the ranks that AdaLoRA has
masked for now, and does not load them into a model in training.
"""

from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraConfig, PeftModel
from safetensors.torch import load_file, save_file

from hf_finetune.errors import InputError

FILE = "adapter_state.safetensors"


def save_state(adapted: PeftModel, folder: Path) -> None:
    """Write `FILE` into the folder of a checkpoint."""
    tensors = {f"weight:{n}": p.detach().cpu().contiguous() for n, p in adapted.named_parameters() if p.requires_grad}
    config = adapted.active_peft_config
    if isinstance(config, AdaLoraConfig):
        allocator = _rank_allocator(adapted)
        tensors |= {f"importance:{n}": t.cpu() for n, t in allocator.exp_avg_ipt.items()}
        tensors |= {f"uncertainty:{n}": t.cpu() for n, t in allocator.exp_avg_unc.items()}
        tensors |= {f"kept:{n}": torch.tensor(mask) for n, mask in (config.rank_pattern or {}).items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / FILE, metadata={"format": "pt"})


@torch.no_grad()
def load_state(adapted: PeftModel, folder: Path) -> None:
    """Restore the state that `save_state` wrote.

    Raises:
        InputError: it is the state of another adapter.
    """
    tensors = load_file(folder / FILE)
    weights = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
    saved = {n.removeprefix("weight:"): t for n, t in tensors.items() if n.startswith("weight:")}
    if saved.keys() != weights.keys() or any(saved[n].shape != p.shape for n, p in weights.items()):
        raise InputError(f"{folder}: it has the weights of another adapter; start a new run in another --output")
    for name, parameter in weights.items():
        parameter.copy_(saved[name])
    config = adapted.active_peft_config
    if isinstance(config, AdaLoraConfig):
        device, allocator = adapted.device, _rank_allocator(adapted)
        allocator.reset_ipt()
        for key, tensor in tensors.items():
            kind, _, name = key.partition(":")
            if kind == "importance":
                # peft tests for this key, and sets the value in every step before it reads it.
                allocator.ipt[name] = torch.zeros_like(tensor, device=device)
                allocator.exp_avg_ipt[name] = tensor.to(device)
            elif kind == "uncertainty":
                allocator.exp_avg_unc[name] = tensor.to(device)
        ranks = {n.removeprefix("kept:"): t.tolist() for n, t in tensors.items() if n.startswith("kept:")}
        config.rank_pattern = ranks or None


def _rank_allocator(adapted: PeftModel) -> Any:
    return adapted.base_model.rankallocator
