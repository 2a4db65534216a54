"""From a checkpoint to a model that is pretrained further, and back to an encoder that plain transformers loads."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import torch
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForMaskedImageModeling,
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from hf_finetune.errors import InputError
from hf_finetune.models.checkpoint_config import load_config, set_dropout
from hf_finetune.models.contexts import input_errors, quiet, seeded
from hf_finetune.models.freezing import freeze_batch_norm
from hf_finetune.models.safety import LocalCheckpoint
from hf_finetune.pretraining.objectives.base import Objective, Predicts

logger = logging.getLogger("hf_finetune")

AUTO = {
    "words": AutoModelForMaskedLM,
    "patches": AutoModelForMaskedImageModeling,
    "unseen patches": AutoModel,
    "views": AutoModelForImageClassification,
    "nothing": AutoModel,
}


def check_pretrainable(local: LocalCheckpoint, objective: Objective) -> None:
    """Refuse a checkpoint whose family cannot be pretrained so, by its config alone.

    Raises:
        InputError: naming the family.
    """
    objective.check_family(load_config(local))


def load_pretrainable(
    local: LocalCheckpoint,
    objective: Objective,
    *,
    dropout: float | None = None,
    attn_implementation: Literal["eager", "sdpa"] | None = None,
    seed: int = 0,
) -> PreTrainedModel:
    """Load a checkpoint in float32 with the head that predicts: as the checkpoint has it, else new from `seed`.

    A new head for words ends in the word embeddings themselves (tied), whatever the config says. For views it is a
    classifier, of one class, in the place of whose head a projection is to be put; for unseen patches, and for nothing,
    the encoder alone.

    Args:
        dropout, attn_implementation: see `models.loading.load_classifier`.

    Raises:
        InputError: see `check_pretrainable`; or it cannot be loaded.
    """
    predicts, config = objective.predicts, _config(local, objective)
    if dropout is not None:
        set_dropout(config, dropout)
    if attn_implementation is None and not torch.accelerator.is_available():
        attn_implementation = "eager"
    with input_errors(f"{local.name}: cannot be loaded to be pretrained"), quiet(), seeded(seed):
        model, info = AUTO[predicts].from_pretrained(
            local.folder,
            config=config,
            dtype=torch.float32,
            attn_implementation=attn_implementation,
            weights_only=True,
            output_loading_info=True,
            # The last layer of a classifier of other classes, which is exchanged.
            ignore_mismatched_sizes=predicts == "views",
            trust_remote_code=False,
        )
    _start_head(model, set(info["missing_keys"]), predicts, local.name, seed)
    if model.base_model is model and (pooler := dict(model.named_children()).get("pooler")) is not None:
        # The states are read, not what it makes of them: nothing trains it.
        pooler.requires_grad_(False)
    # As in a classifier: what a row costs depends on no other, save where the objective says so.
    freeze_batch_norm(model)
    return model


def _start_head(model: PreTrainedModel, missing: set[str], predicts: Predicts, name: str, seed: int) -> None:
    """Log a head that the checkpoint did not have, and tie one that predicts words to the word embeddings.

    Args:
        missing: parameters that the checkpoint did not have.

    Raises:
        InputError: it had none of the encoder.
    """
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    body = {prefix + name for name, _ in model.base_model.named_parameters()}
    if body <= missing:
        raise InputError(f"{name}: none of its weights fits {type(model).__name__}; is this another kind of model?")
    new = sorted({name.split(".")[0] for name in missing - body})
    if new and predicts != "views":
        logger.info(
            "%s: %s, which predicts %s, not in the checkpoint, started from seed %d",
            name,
            ", ".join(new),
            predicts,
            seed,
        )
    if predicts == "words" and new:
        _tie(model)


def _tie(model: PreTrainedModel) -> None:
    if model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
        model.config.tie_word_embeddings = True
        model.tie_weights()


def _config(local: LocalCheckpoint, objective: Objective) -> PreTrainedConfig:
    """Return the config of the checkpoint with the head that the objective needs."""
    config = load_config(local)
    objective.check_family(config)
    if objective.predicts == "patches":
        # The decoder makes the pixels of one token out of its state: of one patch, or of several that Swin has merged.
        merged = 2 ** (len(config.depths) - 1) if config.model_type == "swin" else 1
        config.encoder_stride = config.patch_size * merged
    if objective.predicts == "views":
        config.num_labels = 1
    return config


def save_encoder(model: PreTrainedModel, local: LocalCheckpoint, folder: Path) -> None:
    """Write the encoder as the checkpoint has it: with the weights that were trained, and those that had no part in it.

    BERT's pooler is such: no pretraining passes through it, and classification begins with it.

    Args:
        model: of `load_pretrainable`.
        local: what it was loaded from.
    """
    with quiet():
        whole, info = AutoModel.from_pretrained(
            local.folder, dtype=torch.float32, weights_only=True, output_loading_info=True, trust_remote_code=False
        )
    names, idle = whole.state_dict().keys(), {n for n, p in model.base_model.named_parameters() if not p.requires_grad}
    trained = {name: x for name, x in model.base_model.state_dict().items() if name not in idle}
    had = {name: x for name, x in whole.state_dict().items() if name not in info["missing_keys"]}
    # Not an image's mask token, of which the encoder by itself knows nothing.
    whole.save_pretrained(folder, state_dict={**had, **{name: x for name, x in trained.items() if name in names}})
