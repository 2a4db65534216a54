"""Load a checkpoint for pretraining, and save its encoder for plain transformers afterwards."""

import logging
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForMaskedImageModeling,
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from hf_finetune.errors import InputError
from hf_finetune.models.checkpoint import LocalCheckpoint
from hf_finetune.models.checkpoint_config import load_config, set_dropout
from hf_finetune.models.contexts import input_errors, quiet, seeded
from hf_finetune.models.families import depths_of
from hf_finetune.models.freezing import freeze_batch_norm
from hf_finetune.models.modules import classification_layers
from hf_finetune.pretraining.objectives.base import Objective, Predicts

logger = logging.getLogger("hf_finetune")

AUTO = {
    "words": AutoModelForMaskedLM,
    "patches": AutoModelForMaskedImageModeling,
    "unseen patches": AutoModel,
    "views": AutoModelForImageClassification,
    "nothing": AutoModel,
}


def load_pretrainable(
    local: LocalCheckpoint,
    objective: Objective,
    *,
    dropout: float | None = None,
    attn_implementation: Literal["eager", "sdpa"] | None = None,
    seed: int = 0,
) -> PreTrainedModel:
    """Load a checkpoint in float32, with its own head for the objective or a new one from `seed`.

    All weights of a checkpoint without files of weights are new. A new head for words is tied to the word embeddings;
    for views it is one that `replace_head` replaces.

    Args:
        dropout, attn_implementation: see `models.loading.load_classifier`.

    Raises:
        InputError: the family does not have the objective, or the checkpoint cannot be loaded.
    """
    config = _config(local, objective, dropout)
    if attn_implementation is None and not torch.accelerator.is_available():
        attn_implementation = "eager"
    options = {"dtype": torch.float32, "attn_implementation": attn_implementation}
    missing: set[str] | None = None
    with input_errors(f"{local.name}: cannot be loaded for pretraining"), quiet(), seeded(seed):
        if not local.weights:
            model = AUTO[objective.predicts].from_config(config, **options)
        else:
            model, info = AUTO[objective.predicts].from_pretrained(
                local.folder,
                config=config,
                weights_only=True,
                output_loading_info=True,
                # The last layer of a classifier of other classes is replaced anyway.
                ignore_mismatched_sizes=objective.predicts == "views",
                trust_remote_code=False,
                **options,
            )
            missing = set(info["missing_keys"])
    if missing is not None:
        _start_head(model, missing, objective.predicts, local.name, seed)
    if model.base_model is model and (pooler := dict(model.named_children()).get("pooler")) is not None:
        # The objective reads the hidden states below the pooler.
        pooler.requires_grad_(False)
    # As in a classifier: only an objective makes the loss of a row depend on others.
    freeze_batch_norm(model)
    return model


def _config(local: LocalCheckpoint, objective: Objective, dropout: float | None) -> PreTrainedConfig:
    """Return the checkpoint's config, changed for the head of the objective and the dropout."""
    config = load_config(local)
    objective.check_family(config)
    if objective.predicts == "patches":
        # The head predicts the pixels of a token: of one patch, or of several that Swin has merged.
        merged = 2 ** (len(depths_of(config)) - 1)
        config.encoder_stride = config.patch_size * merged
    if objective.predicts == "views":
        config.num_labels = 1
    if dropout is not None:
        set_dropout(config, dropout)
    return config


def _start_head(model: PreTrainedModel, missing: set[str], predicts: Predicts, name: str, seed: int) -> None:
    """Log a head that is not in the checkpoint, and tie one for words to the word embeddings.

    Args:
        missing: names of the parameters that are not in the checkpoint.

    Raises:
        InputError: they are all parameters of the encoder.
    """
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    encoder = {prefix + parameter for parameter, _ in model.base_model.named_parameters()}
    if encoder <= missing:
        raise InputError(f"{name}: none of its weights fits {type(model).__name__}; is this another kind of model?")
    new = sorted({parameter.split(".")[0] for parameter in missing - encoder})
    if new and predicts != "views":
        message = "%s: %s, which predicts %s, is not in the checkpoint and starts from seed %d"
        logger.info(message, name, ", ".join(new), predicts, seed)
    if new and predicts == "words" and model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
        model.config.tie_word_embeddings = True
        model.tie_weights()


def replace_head(model: PreTrainedModel, width: int, *, seed: int) -> None:
    """Replace the last layer of a classifier by a projection of two layers (SimCLR, arXiv:2002.05709).

    Args:
        model: a stock classifier, whose `logits` (B, width) become the projection.
        seed: seed of the initial weights; torch's global generator stays as it is.
    """
    with seeded(seed):
        for layer in classification_layers(model):
            name = next(n for n, module in model.named_modules() if module is layer)
            features = layer.in_features
            projection = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, width))
            model.set_submodule(name, projection)


def save_encoder(model: PreTrainedModel, local: LocalCheckpoint, folder: Path) -> None:
    """Write the encoder with the trained weights, and the checkpoint's own weights that did not train.

    BERT's pooler is one of them: no objective passes through it, and a classifier starts from it.

    Args:
        model: from `load_pretrainable`.
        local: the checkpoint that it was loaded from.
    """
    if local.weights:
        with quiet():
            whole, info = AutoModel.from_pretrained(
                local.folder, dtype=torch.float32, weights_only=True, output_loading_info=True, trust_remote_code=False
            )
        missing = set(info["missing_keys"])
    else:  # random weights, which a classifier draws anew where they did not train
        with quiet(), seeded(0):
            whole = AutoModel.from_config(model.config)
        missing = set(whole.state_dict())
    idle = {name for name, parameter in model.base_model.named_parameters() if not parameter.requires_grad}
    original = {name: x for name, x in whole.state_dict().items() if name not in missing}
    # Without an image's mask token, which the encoder by itself does not have.
    names = whole.state_dict().keys() - idle
    trained = {name: x for name, x in model.base_model.state_dict().items() if name in names}
    whole.save_pretrained(folder, state_dict={**original, **trained})
