"""The weights of before the first step, which a run returns where training made them worse on the validation rows."""

import logging
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file

from hf_finetune.data.labels import labels_of
from hf_finetune.data.word_inputs import by_row
from hf_finetune.evaluation.doubts import start_doubts
from hf_finetune.pipeline.run_setup import RunSetup
from hf_finetune.training.averaging import load_weights, swapped
from hf_finetune.training.best_weights import Selection
from hf_finetune.training.soup import Candidate
from hf_finetune.training.trainer import ClassifierTrainer
from hf_finetune.utils.files import atomic_file

logger = logging.getLogger("hf_finetune.run")
FILE = "start.safetensors"


def save_start_weights(setup: RunSetup) -> None:
    """Write the weights that will train beside the checkpoints, if the head is fitted; a resumed run has them."""
    path = setup.folder / "checkpoints" / FILE
    has_fitted_head = setup.record.head is not None and setup.record.head.fitted
    # With folds no row is left to compare on.
    if setup.dry_run or path.exists() or not has_fitted_head or setup.run.recipe.evaluate.folds is not None:
        return
    weights = {n: p.detach().cpu().contiguous() for n, p in setup.network.named_parameters() if p.requires_grad}
    with atomic_file(path) as temporary:
        save_file(weights, temporary)


@torch.no_grad()
def keep_better_start(setup: RunSetup, trainer: ClassifierTrainer) -> tuple[dict[str, Any] | None, np.ndarray | None]:
    """Compare the trained weights with those of the start on the validation rows, and restore the better start.

    Returns:
        The paired difference, trained minus start, for result.json, and the validation logits (N, C) of the weights
        that stay. None: the head was not fitted.
    """
    path, task, rows = setup.folder / "checkpoints" / FILE, setup.run.data.task, setup.rows.validation
    PartialState().wait_for_everyone()
    if not path.exists():
        return None, None
    # On the CPU: the optimizer's state still fills the device.
    start, model, trained_NC = load_file(path), trainer.model, trainer.logits(rows)
    with swapped(model, start):
        start_NC = trainer.logits(rows)
    labels = by_row(rows, labels_of(rows))
    trained, fitted = (task.training_scores(by_row(rows, logits_NC)) for logits_NC in (trained_NC, start_NC))
    difference = task.compare(labels, trained, fitted)
    is_worse = difference["verdict"] == "worse"
    if is_worse:
        load_weights(model, start)
        metric = task.values(labels, fitted)[setup.run.metric]
        selection, candidate = trainer.selection, Candidate("start", (0,), metric)
        trainer.selection = Selection(candidate, (*selection.candidates, candidate))
        logger.warning(start_doubts(difference)[0].message)
    return difference, start_NC if is_worse else trained_NC
