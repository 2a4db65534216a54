"""AdaLoRA in training: its ranks are cut step by step, and its singular vectors kept orthogonal.

https://arxiv.org/abs/2303.10512
"""

from __future__ import annotations

import torch
from peft import PeftModel
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class RankSchedule(TrainerCallback):
    """After every optimiser step, weighs every rank by weights and gradients, and cuts the least of them.

    Args:
        adapted: with an AdaLoRA adapter whose schedule is set, see `adapters.add_adapter`. What the schedule remembers
            goes into the checkpoints, see `adapter_state`.
    """

    def __init__(self, adapted: PeftModel) -> None:
        self.adapted = adapted

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Called while the gradients are still there; `global_step` does not count this step yet."""
        if args.fp16:
            # A step that the loss scaler passed over has infinite gradients: it weighs nothing.
            for parameter in self.adapted.parameters():
                if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                    parameter.grad.zero_()
        self.adapted.base_model.update_and_allocate(state.global_step + 1)


def orthogonality(adapted: PeftModel) -> torch.Tensor:
    """AdaLoRA's penalty: how far the rows of P and Q are from orthonormal, the mean of |P P^T - I| over all matrices.

    peft adds it to a loss that the model itself computes, which ours does not.

    Returns:
        A scalar, multiplied by the config's `orth_reg_weight`.
    """
    distances = []
    for name, parameter in adapted.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            rows = parameter if ".lora_A." in name else parameter.T
            distances.append(torch.linalg.matrix_norm(rows @ rows.T - torch.eye(len(rows), device=rows.device)))
    return adapted.active_peft_config.orth_reg_weight * torch.stack(distances).mean()
