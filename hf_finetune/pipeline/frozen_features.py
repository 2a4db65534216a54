"""What the head would read of texts before training, by which a way to read them is chosen.

Legend: N rows, D features, C outputs.
"""

from typing import Any

import numpy as np
from datasets import Dataset
from torch import nn

from hf_finetune.data.inputs import Rows, TextInputs, columns_of
from hf_finetune.data.labels import labels_of
from hf_finetune.evaluation.logits import Collate
from hf_finetune.models.modules import classification_layers
from hf_finetune.pipeline.context import RunContext
from hf_finetune.tasks.base import HeadFit, Task
from hf_finetune.training.warm_start import MEASURED_AT, head_features


def draw_rows(task: Task, labeled: Dataset, most: int) -> Dataset:
    """Return rows drawn at random, in their order, with rows of every class."""
    drawn = np.sort(np.random.default_rng(0).permutation(len(labeled))[:most])
    return labeled.select(task.with_every_output(drawn, labels_of(labeled)))


def frozen_features(
    context: RunContext,
    network: nn.Module,
    inputs: TextInputs,
    encoded: Dataset,
    *,
    progress: str,
    collate: Collate | None = None,
) -> np.ndarray:
    """Return the features of encoded rows that the first classification layer reads, in row order, shape (N, D).

    Args:
        collate: in place of that of the inputs.

    Raises:
        NotOfRows: the layer reads tokens.
    """
    # Rows of similar length share a batch.
    order = np.argsort(encoded["length"][:], kind="stable")
    sorted_ND = head_features(
        network.to(context.device),
        classification_layers(network)[:1],
        Rows(encoded.select(order), columns_of(inputs, labels=False)),
        collate or inputs.collate,
        batch_size=max(1, context.recipe.train.per_device_eval_batch_size // inputs.windows),
        autocast=context.autocast,
        progress=progress,
    )[0]
    features_ND = np.empty_like(sorted_ND)
    features_ND[order] = sorted_ND
    return features_ND


def held_out_scores(
    task: Task, features_ND: np.ndarray, labels: Any, fold_N: np.ndarray, *, inverse_strength: float = MEASURED_AT
) -> np.ndarray:
    """Return the scores (N, C) of each row by a head that is fitted to the rows of the other folds.

    Args:
        fold_N: fold of each row.
        inverse_strength: scikit-learn's C, the inverse of the L2 penalty.
    """
    scores_NC = np.zeros((len(features_ND), len(task.labels)))
    for fold in np.unique(fold_N):
        fitted_N = fold_N != fold
        if task.has_classes and len(only := np.unique(labels[fitted_N])) == 1:
            # A regression needs two classes. Of all that is compared these rows have the same scores.
            scores_NC[~fitted_N, only] = 1
            continue
        fit = HeadFit(inverse_strength, explains=False)
        head = task.fit_head(features_ND[fitted_N], labels[fitted_N], fit)
        logits_NC = features_ND[~fitted_N] @ head.weight_CD.numpy().T + head.bias_C.numpy()
        scores_NC[~fitted_N] = task.training_scores(logits_NC)
    return scores_NC
