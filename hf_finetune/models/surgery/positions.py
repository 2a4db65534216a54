"""Surgery on a text encoder's positions: room for longer texts."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hf_finetune.models.families import check_family, refusal
from hf_finetune.models.surgery.rebuild import rebuild
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

FROM_ZERO = ("bert", "electra", "distilbert", "albert", "deberta", "deberta-v2")
# These count from behind the padding token's id; MPNet takes it to be 1.
FROM_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet")


@configclass
class ExtendPositions:
    """Give a text encoder positions for longer texts; `data.max_length` may then be as large.

    The table of learned positions is repeated (Longformer, arXiv:2004.05150, section 5): it knows little of where in a
    text it is and much of what is near, so a copy is a good start, and texts that fitted before give what they gave.
    Stretching the table instead would change them.
    """

    length: int
    """Tokens of the longest text, special tokens included; more than the checkpoint has positions for."""

    def refuse(self, config: PreTrainedConfig) -> None:
        """Write the new number of positions to `config`.

        Raises:
            InputError: the family has no table of positions, or it is as long already.
        """
        kind = config.model_type
        if kind.startswith("deberta") and not config.position_biased_input:
            raise refusal(
                "ExtendPositions", f"this {kind} has relative positions alone, which have no end; leave it out"
            )
        if kind == "modernbert":
            raise refusal("ExtendPositions", "modernbert has rotary positions, which have no end; leave it out")
        check_family(config, FROM_ZERO + FROM_PADDING, "ExtendPositions")
        old = config.max_position_embeddings - first_position(config)
        if self.length <= old:
            raise refusal(
                "ExtendPositions", f"length: this {kind} has {old} positions; expected more, got {self.length}"
            )
        if kind.startswith("deberta") and config.max_relative_positions < 1:
            # It means as many as the others, and these must stay.
            config.max_relative_positions = config.max_position_embeddings
        config.max_position_embeddings = self.length + first_position(config)

    def __call__(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model with more positions."""
        config, first = copy.deepcopy(model.config), first_position(model.config)
        self.refuse(config)
        return rebuild(model, config, lambda _, table, shape: repeated(table, shape[0], first))


def first_position(config: PreTrainedConfig) -> int:
    """Row of the position table that a text's first token takes."""
    if config.model_type not in FROM_PADDING:
        return 0
    return 2 if config.model_type == "mpnet" else config.pad_token_id + 1


def length_after(steps: Sequence[Any]) -> int | None:
    """Tokens that the model has positions for once these operations are done; None where none of them changes it."""
    lengths = [step.length for step in steps if isinstance(step, ExtendPositions)]
    return lengths[-1] if lengths else None


def repeated(table: torch.Tensor, rows: int, first: int) -> torch.Tensor:
    """The table (positions, width) with its rows from `first` on repeated until there are `rows` of them."""
    import torch

    again = (torch.arange(rows - first) % (len(table) - first)) + first
    return torch.cat([table[:first], table[again]])
