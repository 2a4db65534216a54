"""The loss of a run, and what it makes of the classes."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from hf_finetune.data.sampling import class_quotas
from hf_finetune.distillation.config import Distill
from hf_finetune.distillation.loss import DistillationLoss
from hf_finetune.pipeline.context import PreparedRun
from hf_finetune.training.losses.class_weights import log_shares
from hf_finetune.training.losses.weighted import WeightedLoss


def drawn_per_class(run: PreparedRun) -> np.ndarray:
    """Rows of each class in an epoch, shape (C,): others than there are where `batching.sampling` draws them."""
    return class_quotas(run.data.rows_per_class, run.recipe.batching.sampling)


def class_weights(run: PreparedRun) -> tuple[float, ...] | None:
    """What a row's loss is multiplied with, by its class; None: nothing.

    Raises:
        InputError: a weight for what is no class.
    """
    weights = run.recipe.objective.class_weights
    return None if weights is None else weights(drawn_per_class(run).tolist(), run.data.splits.labels)


def class_shifts(run: PreparedRun) -> tuple[float, ...] | None:
    """What is added to the logits in training, by class; None: nothing."""
    tau = run.recipe.objective.logit_adjustment
    return tuple(tau * share for share in log_shares(drawn_per_class(run).tolist())) if tau else None


def training_loss(run: PreparedRun) -> WeightedLoss | DistillationLoss:
    """The recipe's loss, see `training.losses.weighted`; beside a teacher of both, see `distillation.loss`.

    Raises:
        InputError: see `class_weights`.
    """
    objective, weights, shifts, device = run.recipe.objective, class_weights(run), class_shifts(run), run.context.device
    labels = WeightedLoss(
        partial(objective.loss, label_smoothing=objective.label_smoothing),
        weights_C=None if weights is None else torch.tensor(weights, device=device),
        shift_C=None if shifts is None else torch.tensor(shifts, device=device),
    )
    if isinstance(objective, Distill):
        return DistillationLoss(labels, objective.labels_weight, objective.kinds)
    return labels
