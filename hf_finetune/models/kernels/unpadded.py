"""Batches without padding: all sequences of a batch packed into one row, with attention only within each sequence.

A stock classifier pools the first token of each row, so in a packed batch the first sequence only. Two hooks on the
encoder correct this: one passes it the bounds of the sequences, the other gives the head one vector per sequence. They
do nothing to ordinary batches, and are not saved.

Legend: B sequences, S tokens of all sequences together, D features.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, masking_utils
from transformers.utils import is_flash_attn_2_available

from hf_finetune.errors import InputError
from hf_finetune.models.families import family_of, names_where, stock_head
from hf_finetune.models.heads.custom import CustomHeadClassifier
from hf_finetune.models.kernels.class_swap import attention_kernel
from hf_finetune.models.modules import encoder, is_token_classifier, without_adapter

# A test covers each of them.
FAMILIES = names_where(lambda family: family.packable)
FLASH = "flash_attention_2"


def use_unpadded(
    requested: bool | None,
    model: PreTrainedModel,
    *,
    device: torch.device,
    autocast: torch.dtype | None,
    reason: str = "",
) -> bool:
    """Whether to train on batches without padding.

    Args:
        requested: True, False, or None: if flash attention is available, on a GPU in half precision.
        reason: why the run cannot, for the message; empty: it can.

    Raises:
        InputError: it is requested, but the family or the run cannot.
    """
    family = model.config.model_type
    if family not in FAMILIES or not type(model).__module__.startswith("transformers."):
        reason = f"{family} is none of {', '.join(FAMILIES)}"
    if is_token_classifier(model):
        reason = "the head reads single words, whose places are counted in padded rows"
    if isinstance(model, CustomHeadClassifier):
        reason = "the head of model.pooling, model.last_layers or model.head reads padded rows"
    if requested and reason:
        raise InputError(f"batching.unpadded: expected false or unset here, got true: {reason}")
    return bool(requested) or (requested is None and not reason and flash_fits(device, autocast))


def flash_fits(device: torch.device, autocast: torch.dtype | None) -> bool:
    """Whether flash attention is installed and supports this device; it needs half precision."""
    return device.type == "cuda" and autocast is not None and is_flash_attn_2_available()


def flash_attention(model: nn.Module) -> AbstractContextManager[None]:
    """Use flash attention in the context only: evaluation in float32 needs another kernel."""
    return attention_kernel(without_adapter(model), FLASH)


def accept_packed(model: nn.Module) -> None:
    """Make a classifier, or a PEFT model, accept batches of `data.tokens.pack` besides ordinary ones."""
    body = encoder(model)
    body.register_forward_pre_hook(_separate_sequences, with_kwargs=True)
    body.register_forward_hook(_pool_sequences, with_kwargs=True)


def _separate_sequences(body: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
    """Pass positions as the family counts them, and a block mask if the attention kernel does not read the bounds."""
    bounds = kwargs.get("cu_seq_lens_q")
    if bounds is None:
        return None
    assert isinstance(body, PreTrainedModel)
    config, kwargs = body.config, dict(kwargs)
    family, positions = family_of(config), kwargs["position_ids"]
    if family.first_position is not None:
        kwargs["position_ids"] = positions + family.first_position(config)
    if not config._attn_implementation.startswith("flash"):
        tokens = torch.arange(positions.shape[1], dtype=bounds.dtype, device=bounds.device)
        sequence_S = torch.searchsorted(bounds[1:], tokens, right=True)
        options = {
            "config": config,
            # Only its shape, dtype and device are used.
            "inputs_embeds": torch.empty(*positions.shape, 0, dtype=body.dtype, device=positions.device),
            "attention_mask": None,
            "and_mask_function": masking_utils.packed_sequence_mask_function(sequence_S[None]),
        }
        mask: Any = masking_utils.create_bidirectional_mask(**options)
        if "layer_types" in config.to_dict():
            # Tokens of a sequence are adjacent, so the sliding window is the same as in a row of its own.
            window = masking_utils.create_bidirectional_sliding_window_mask(**options)
            mask = {"full_attention": mask, "sliding_attention": window}
        kwargs["attention_mask"] = mask
    return args, kwargs


def _pool_sequences(body: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
    """Return what the head reads of each sequence, as a batch of rows with one token: (B, 1, D)."""
    bounds = kwargs.get("cu_seq_lens_q")
    if bounds is None:
        return None
    assert isinstance(body, PreTrainedModel)
    hidden_SD = output.last_hidden_state[0]
    assert len(hidden_SD) == kwargs["position_ids"].shape[1], "packed batches need all tokens of the last layer"
    stock = stock_head(body.config)
    if stock is not None and stock.pooling == "mean":
        pooled_BD = torch.segment_reduce(hidden_SD, "mean", offsets=bounds.long(), axis=0, unsafe=True)
    else:
        pooled_BD = hidden_SD.index_select(0, bounds[:-1])
    output.last_hidden_state = pooled_BD[:, None]
    if (pooler := dict(body.named_children()).get("pooler")) is not None:
        output.pooler_output = pooler(output.last_hidden_state)
    return output
