"""From a checkpoint to a model that is pretrained further, and back to an encoder that plain transformers loads."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import torch
from transformers import (
    MODEL_FOR_MASKED_IMAGE_MODELING_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForMaskedImageModeling,
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from hf_finetune.errors import InputError
from hf_finetune.models.freezing import freeze_batch_norm
from hf_finetune.models.loading import load_config, quiet, seeded, set_dropout
from hf_finetune.models.patches import takes_any_patches
from hf_finetune.models.safety import LocalCheckpoint, first_line
from hf_finetune.pretraining.config import MAE, MaskedLanguage, SimCLR, SimCSE, SimMIM

logger = logging.getLogger("hf_finetune")

Guess = Literal["words", "patches", "unseen patches", "views", "nothing"]
"""What the model guesses from the encoder's states: of unseen patches the encoder knows not even the places; of views, which are
of one picture."""
GUESSES: dict[type, Guess] = {
    MaskedLanguage: "words",
    SimCSE: "nothing",
    SimMIM: "patches",
    MAE: "unseen patches",
    SimCLR: "views",
}
AUTO = {
    "words": AutoModelForMaskedLM,
    "patches": AutoModelForMaskedImageModeling,
    "unseen patches": AutoModel,
    "views": AutoModelForImageClassification,
    "nothing": AutoModel,
}
# Their tokens are patches of one size in rows and columns, as `pretraining.trainer` takes them to be.
PICTURES = ("vit", "deit", "swin")


def check_pretrainable(local: LocalCheckpoint, guess: Guess) -> None:
    """Refuse a checkpoint whose family cannot be pretrained so, by its config alone.

    Raises:
        InputError: naming the family.
    """
    config = load_config(local, False)
    if guess == "words" and type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
        raise InputError(
            f"pretrain.objective: {config.model_type} guesses no words; expected a bert, roberta, distilbert, electra, deberta, "
            "mpnet, albert or modernbert checkpoint, or SimCSE"
        )
    if guess == "patches" and (
        config.model_type not in PICTURES or type(config) not in MODEL_FOR_MASKED_IMAGE_MODELING_MAPPING
    ):
        raise InputError(
            f"pretrain.objective: {config.model_type} guesses no patches; expected a {', '.join(PICTURES[:-1])} or "
            f"{PICTURES[-1]} checkpoint"
        )
    if guess == "unseen patches" and not takes_any_patches(config):
        others = "SimMIM or SimCLR" if config.model_type in PICTURES else "SimCLR"
        raise InputError(
            f"pretrain.objective: MAE leaves patches out, and {config.model_type} needs every patch; expected a vit, deit or "
            f"dinov2 checkpoint, or {others}"
        )


def load_pretrainable(
    local: LocalCheckpoint,
    guess: Guess,
    *,
    dropout: float | None = None,
    attn_implementation: Literal["eager", "sdpa"] | None = None,
    seed: int = 0,
) -> PreTrainedModel:
    """A checkpoint in float32 with what guesses on it: as the checkpoint has it, else new from `seed`.

    A new head for words ends in the word embeddings themselves (tied), whatever the config says. For views it is a classifier,
    of one class, in the place of whose head a projection is to be put; for unseen patches, and for nothing, the encoder alone.

    Args:
        dropout, attn_implementation: see `load.load_classifier`.

    Raises:
        InputError: see `check_pretrainable`; or it cannot be loaded.
    """
    check_pretrainable(local, guess)
    config = load_config(local, False)
    if dropout is not None:
        set_dropout(config, dropout)
    if guess == "patches":
        _set_stride(config)
    if guess == "views":
        config.num_labels = 1
    if attn_implementation is None and not torch.accelerator.is_available():
        attn_implementation = "eager"
    try:
        with quiet(), seeded(seed):
            model, info = AUTO[guess].from_pretrained(
                local.folder,
                config=config,
                dtype=torch.float32,
                attn_implementation=attn_implementation,
                weights_only=True,
                output_loading_info=True,
                # The last layer of a classifier of other classes, which is exchanged.
                ignore_mismatched_sizes=guess == "views",
                trust_remote_code=False,
            )
    except (ValueError, RuntimeError, TypeError, KeyError, OSError, ImportError) as error:
        raise InputError(f"{local.name}: cannot be loaded to be pretrained: {first_line(error)}") from error
    alone = model.base_model is model
    body = {f"{model.base_model_prefix}." * (not alone) + n for n, _ in model.base_model.named_parameters()}
    if body <= set(info["missing_keys"]):
        raise InputError(
            f"{local.name}: none of its weights fits {type(model).__name__}; is this another kind of model?"
        )
    new = sorted({name.split(".")[0] for name in set(info["missing_keys"]) - body})
    if new and guess != "views":
        logger.info(
            "%s: %s, which guesses %s, not in the checkpoint, started from seed %d",
            local.name,
            ", ".join(new),
            guess,
            seed,
        )
    if guess == "words" and new:
        _tie(model)
    if alone and (pooler := dict(model.named_children()).get("pooler")) is not None:
        # The states are read, not what it makes of them: nothing trains it.
        pooler.requires_grad_(False)
    # As in a classifier: what a row costs depends on no other, save where the objective says so.
    freeze_batch_norm(model)
    return model


def _tie(model: PreTrainedModel) -> None:
    if model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
        model.config.tie_word_embeddings = True
        model.tie_weights()


def _set_stride(config: PreTrainedConfig) -> None:
    """The decoder makes the pixels of one token out of its state: of one patch, or of several that Swin has merged."""
    config.encoder_stride = config.patch_size * 2 ** (len(config.depths) - 1 if config.model_type == "swin" else 0)


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
    # Not a picture's mask token, of which the encoder by itself knows nothing.
    whole.save_pretrained(folder, state_dict={**had, **{name: x for name, x in trained.items() if name in names}})
