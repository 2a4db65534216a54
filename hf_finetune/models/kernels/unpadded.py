"""Batches without padding: all rows of a batch in one long row, each attending to itself alone.

A classifier of the library pools the first token of every row of a batch, so of a packed batch only the very first.
Two hooks on the encoder mend that: one tells it where the rows start, the other hands the head one vector per row. They
are idle for ordinary batches, and nothing of them is saved.

Legend: B rows, S tokens of all rows together, D features.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.masking_utils import (
    create_bidirectional_mask,
    create_bidirectional_sliding_window_mask,
    packed_sequence_mask_function,
)
from transformers.utils import is_flash_attn_2_available

from hf_finetune.errors import InputError
from hf_finetune.models.families import family_of, names_where, stock_head
from hf_finetune.models.heads.custom import CustomHeadClassifier
from hf_finetune.models.kernels.exchange import attention_kernel
from hf_finetune.models.modules import encoder, without_adapter

# A test holds each of them to it.
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
    """Whether batches go without padding.

    Args:
        requested: True, False, or None: where a flash-attention kernel runs them, which is on a GPU in half precision.
        reason: what else stands against it, in words; empty: nothing.

    Raises:
        InputError: True for a family or a run that cannot.
    """
    family = model.config.model_type
    if family not in FAMILIES or not type(model).__module__.startswith("transformers."):
        reason = f"{family} is none of {', '.join(FAMILIES)}"
    if isinstance(model, CustomHeadClassifier):
        reason = "the head of model.pooling, model.last_layers or model.head reads padded rows"
    if requested and reason:
        raise InputError(f"batching.unpadded: expected false or unset here, got true: {reason}")
    return bool(requested) or (requested is None and not reason and flash_fits(device, autocast))


def flash_fits(device: torch.device, autocast: torch.dtype | None) -> bool:
    """Whether flash attention is installed for this device; its kernels know half precision only."""
    return device.type == "cuda" and autocast is not None and is_flash_attn_2_available()


def flash_attention(model: nn.Module) -> AbstractContextManager[None]:
    """Flash attention inside, the former kernel after: evaluation in float32 needs one that can."""
    return attention_kernel(without_adapter(model), FLASH)


def accept_packed(model: nn.Module) -> None:
    """Make a classifier take the batches of `data.tokens.pack` as well as ordinary ones; through a PEFT model too."""
    body = encoder(model)
    body.register_forward_pre_hook(_separate_rows, with_kwargs=True)
    body.register_forward_hook(_one_vector_a_row, with_kwargs=True)


def _separate_rows(body: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
    """Positions as the family counts them, and a block mask where the attention kernel does not read row bounds."""
    bounds = kwargs.get("cu_seq_lens_q")
    if bounds is None:
        return None
    assert isinstance(body, PreTrainedModel)
    config, kwargs = body.config, dict(kwargs)
    family, positions = family_of(config), kwargs["position_ids"]
    if family is not None and family.first_position is not None:
        kwargs["position_ids"] = positions + family.first_position(config)
    if not config._attn_implementation.startswith("flash"):
        options = {
            "config": config,
            # Read for its shape, dtype and device.
            "inputs_embeds": torch.empty(*positions.shape, 0, dtype=body.dtype, device=positions.device),
            "attention_mask": None,
            "and_mask_function": packed_sequence_mask_function(_row_of_token(bounds, positions)[None]),
        }
        mask: Any = create_bidirectional_mask(**options)
        if "layer_types" in config.to_dict():
            # Rows lie side by side, so a window of so many tokens is the same within a row and in the long row.
            mask = {"full_attention": mask, "sliding_attention": create_bidirectional_sliding_window_mask(**options)}
        kwargs["attention_mask"] = mask
    return args, kwargs


def _row_of_token(bounds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Index of the row that each token belongs to, shape (S,)."""
    tokens = torch.arange(positions.shape[1], dtype=bounds.dtype, device=bounds.device)
    return torch.searchsorted(bounds[1:], tokens, right=True)


def _one_vector_a_row(body: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
    """What the head reads of every row, as a batch of rows of one token: (B, 1, D)."""
    bounds = kwargs.get("cu_seq_lens_q")
    if bounds is None:
        return None
    assert isinstance(body, PreTrainedModel)
    hidden_SD = output.last_hidden_state[0]
    assert len(hidden_SD) == kwargs["position_ids"].shape[1], "the last layer must not be narrowed to the first token"
    stock = stock_head(body.config)
    if stock is not None and stock.pooling == "mean":
        read_BD = torch.segment_reduce(hidden_SD, "mean", offsets=bounds.long(), axis=0, unsafe=True)
    else:
        read_BD = hidden_SD.index_select(0, bounds[:-1])
    output.last_hidden_state = read_BD[:, None]
    if (pooler := dict(body.named_children()).get("pooler")) is not None:
        output.pooler_output = pooler(output.last_hidden_state)
    return output
