"""The loss of a run, and its class weights.

Legend: C classes.
"""

import numpy as np
import torch

from hf_finetune.data.sampling import drawn_rows
from hf_finetune.distillation.config import Distill
from hf_finetune.distillation.loss import DistillationLoss
from hf_finetune.pipeline.context import Run
from hf_finetune.training.losses.class_weights import log_shares
from hf_finetune.training.losses.weighted import WeightedLoss


def drawn_per_class(run: Run) -> np.ndarray:
    """Return the rows of each class or tag in an epoch, as `batching.sampling` draws them, shape (C,)."""
    sampling = run.recipe.batching.sampling
    if sampling == "none":
        return run.data.rows_per_class
    return drawn_rows(run.data.train_labels, sampling, len(run.data.splits.labels))


def class_weights(run: Run) -> tuple[float, ...] | None:
    """Return the factor of each class's loss, or of that of each tag where a row has it. None: all are 1.

    Raises:
        InputError: a weight for an unknown class, or weights that are not for tags.
    """
    weights = run.recipe.objective.class_weights
    if weights is None:
        return None
    return run.data.task.class_weights(weights, drawn_per_class(run).tolist(), len(run.data.train_labels))


def class_shifts(run: Run) -> tuple[float, ...] | None:
    """Return the logit adjustment of each class in training, or None."""
    tau = run.recipe.objective.logit_adjustment
    return tuple(tau * share for share in log_shares(drawn_per_class(run).tolist())) if tau else None


def training_loss(run: Run) -> WeightedLoss | DistillationLoss:
    """Return the loss against the labels, together with those against the teacher where the recipe has one.

    Raises:
        InputError: see `class_weights`.
    """
    objective, weights, shifts, device = run.recipe.objective, class_weights(run), class_shifts(run), run.context.device
    loss = run.data.task.training_loss(
        objective.loss,
        objective.label_smoothing,
        None if weights is None else torch.tensor(weights, device=device),
        None if shifts is None else torch.tensor(shifts, device=device),
    )
    if isinstance(objective, Distill):
        task = run.data.task
        return DistillationLoss(
            loss, objective.labels_weight, objective.kinds, activation=task.activation, scaled=task.scaled
        )
    return loss
