"""What the head would read of texts before training, by which a way to read them is chosen.

Legend: N rows, D features.
"""

import numpy as np
from datasets import Dataset
from torch import nn

from hf_finetune.data.inputs import Rows, TextInputs, columns_of
from hf_finetune.models.modules import classification_layers
from hf_finetune.pipeline.context import RunContext
from hf_finetune.training.warm_start import head_features


def frozen_features(
    context: RunContext, network: nn.Module, inputs: TextInputs, encoded: Dataset, *, progress: str
) -> np.ndarray:
    """Return the features of encoded rows that the first classification layer reads, in row order, shape (N, D).

    Raises:
        NotOfRows: the layer reads tokens.
    """
    # Rows of similar length share a batch.
    order = np.argsort(encoded["length"][:], kind="stable")
    sorted_ND = head_features(
        network.to(context.device),
        classification_layers(network)[:1],
        Rows(encoded.select(order), columns_of(inputs, labels=False)),
        inputs.collate,
        batch_size=max(1, context.recipe.train.per_device_eval_batch_size // inputs.windows),
        autocast=context.autocast,
        progress=progress,
    )[0]
    features_ND = np.empty_like(sorted_ND)
    features_ND[order] = sorted_ND
    return features_ND
