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
    AutoModelForMaskedImageModeling,
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from hf_finetune.errors import InputError
from hf_finetune.models.load import config_of, quiet, seeded, set_dropout
from hf_finetune.models.safety import LocalCheckpoint, first_line

logger = logging.getLogger("hf_finetune")

Guess = Literal["words", "patches", "nothing"]
"""What the model guesses from the encoder's states."""
AUTO = {"words": AutoModelForMaskedLM, "patches": AutoModelForMaskedImageModeling, "nothing": AutoModel}
# Their tokens are patches of one size in rows and columns, as `training.pretraining` takes them to be.
PICTURES = ("vit", "deit", "swin")


def check_pretrainable(local: LocalCheckpoint, guess: Guess) -> None:
    """Refuse a checkpoint whose family cannot be pretrained so, by its config alone.

    Raises:
        InputError: naming the family.
    """
    config = config_of(local, False)
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


def load_pretrainable(
    local: LocalCheckpoint,
    guess: Guess,
    *,
    dropout: float | None = None,
    attn_implementation: Literal["eager", "sdpa"] | None = None,
    seed: int = 0,
) -> PreTrainedModel:
    """A checkpoint in float32 with what guesses on it: as the checkpoint has it, else new from `seed`.

    A new head for words ends in the word embeddings themselves (tied), whatever the config says.

    Args:
        dropout, attn_implementation: see `load.load_classifier`.

    Raises:
        InputError: see `check_pretrainable`; or it cannot be loaded.
    """
    check_pretrainable(local, guess)
    config = config_of(local, False)
    if dropout is not None:
        set_dropout(config, dropout)
    if guess == "patches":
        _set_stride(config)
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
                trust_remote_code=False,
            )
    except (ValueError, RuntimeError, TypeError, KeyError, OSError, ImportError) as error:
        raise InputError(f"{local.name}: cannot be loaded to be pretrained: {first_line(error)}") from error
    body = {f"{model.base_model_prefix}." * (guess != "nothing") + n for n, _ in model.base_model.named_parameters()}
    if body <= set(info["missing_keys"]):
        raise InputError(
            f"{local.name}: none of its weights fits {type(model).__name__}; is this another kind of model?"
        )
    new = sorted({name.split(".")[0] for name in set(info["missing_keys"]) - body})
    if new:
        logger.info(
            "%s: %s, which guesses %s, not in the checkpoint, started from seed %d",
            local.name,
            ", ".join(new),
            guess,
            seed,
        )
    if guess == "words" and new:
        _tie(model)
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

    BERT's pooler is such: pretraining on words does not pass through it, and classification begins with it.

    Args:
        model: of `load_pretrainable`.
        local: what it was loaded from.
    """
    with quiet():
        whole, info = AutoModel.from_pretrained(
            local.folder, dtype=torch.float32, weights_only=True, output_loading_info=True, trust_remote_code=False
        )
    names, trained = whole.state_dict().keys(), model.base_model.state_dict()
    had = {name: x for name, x in whole.state_dict().items() if name not in info["missing_keys"]}
    # Not a picture's mask token, of which the encoder by itself knows nothing.
    whole.save_pretrained(folder, state_dict={**had, **{name: x for name, x in trained.items() if name in names}})
