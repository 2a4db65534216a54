"""From the recipe's choice to an optimiser over groups of parameters."""

from __future__ import annotations

import logging
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from hf_finetune.training.optim import config as choices
from hf_finetune.training.optim.lion import Lion
from hf_finetune.training.optim.muon import MuonWithAdamW
from hf_finetune.training.optim.rate_groups import Rates, rate_groups, rates_in_words
from hf_finetune.training.optim.schedule_free import ScheduleFreeAdamW
from hf_finetune.training.optim.vocabulary_adamw import VocabularyAdamW

logger = logging.getLogger("hf_finetune.run")


def for_model(
    model: PreTrainedModel | PeftModel,
    choice: choices.Optimizer,
    *,
    lr: float,
    weight_decay: float,
    rates: Rates,
    table: nn.Parameter | None = None,
    rows: torch.Tensor | None = None,
) -> torch.optim.Optimizer:
    """The optimiser that `choice` names, over the model's parameters in the groups that `rates` says.

    Args:
        lr: peak learning rate.
        weight_decay: of what decays, see `rate_groups`.
        table, rows: see `build`.

    Raises:
        InputError: see `rate_groups.rate_groups`.
    """
    groups = rate_groups(
        model, lr=lr, weight_decay=weight_decay, rates=rates, split_matrices=isinstance(choice, choices.Muon)
    )
    if len({group["lr"] for group in groups}) > 1:
        logger.info("peak learning rates: %s", rates_in_words(groups))
    return build(choice, groups, lr=lr, table=table, rows=rows)


def build(
    choice: choices.Optimizer,
    groups: list[dict[str, Any]],
    *,
    lr: float,
    table: nn.Parameter | None = None,
    rows: torch.Tensor | None = None,
) -> torch.optim.Optimizer:
    """The optimiser that `choice` names.

    With a GradScaler (fp16) AdamW, which is fused, leaves out a step that overflowed itself; for the others the scaler does.

    Args:
        groups: `params`, `lr`, `weight_decay` and `matrix` each, see `rate_groups.rate_groups`.
        lr: the peak rate of groups that name none.
        table, rows: with AdamW, the word embeddings and their rows that occur, see `optim.VocabularyAdamW`.
    """
    match choice:
        case choices.AdamW():
            settings = {"lr": lr, "betas": (choice.beta1, choice.beta2), "eps": choice.eps, "fused": True}
            if table is not None and rows is not None:
                return VocabularyAdamW(groups, table=table, rows=rows, **settings)
            return torch.optim.AdamW(groups, **settings)
        case choices.SGD():
            # Not the fused one: when its first step overflowed, its momentum begins with whatever lay in memory (2.13).
            return torch.optim.SGD(groups, lr=lr, momentum=choice.momentum, nesterov=choice.nesterov, foreach=True)
        case choices.Adafactor():
            return torch.optim.Adafactor(
                groups, lr=lr, beta2_decay=choice.beta2_decay, eps=(None, choice.eps), d=choice.clip_threshold
            )
        case choices.Lion():
            return Lion(groups, lr=lr, betas=(choice.beta1, choice.beta2))
        case choices.Muon():
            return MuonWithAdamW(
                sorted(groups, key=lambda group: not group["matrix"]),
                lr=lr,
                muon={"momentum": choice.momentum, "nesterov": choice.nesterov, "ns_steps": choice.ns_steps},
                adamw={"betas": (choice.beta1, choice.beta2), "eps": choice.eps, "fused": True},
            )
        case choices.ScheduleFree():
            return ScheduleFreeAdamW(
                groups,
                lr=lr,
                betas=(choice.beta1, choice.beta2),
                eps=choice.eps,
                r=choice.r,
                weight_lr_power=choice.weight_lr_power,
            )
        case choices.AdamW8bit():
            import bitsandbytes

            return bitsandbytes.optim.AdamW8bit(groups, lr=lr, betas=(choice.beta1, choice.beta2), eps=choice.eps)
