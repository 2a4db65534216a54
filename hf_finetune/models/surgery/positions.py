"""Surgery on a text encoder's positions: room for longer texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hf_finetune.models.families import FAMILIES, names_where
from hf_finetune.models.surgery.rebuild import Operation
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

# DeBERTa's first version counts its positions as the second does.
TABLES = (*names_where(lambda family: family.first_position is not None), "deberta")


@configclass
class ExtendPositions(Operation):
    """Give a text encoder positions for longer texts; `data.max_length` may then be as large.

    The table of learned positions is repeated (Longformer, arXiv:2004.05150, section 5): it knows little of where in a
    text it is and much of what is near, so a copy is a good start, and texts that fitted before give what they gave.
    Stretching the table instead would change them.
    """

    length: int
    """Tokens of the longest text, special tokens included; more than the checkpoint has positions for."""

    def update_config(self, config: PreTrainedConfig) -> None:
        """Write the new number of positions to `config`.

        Raises:
            InputError: the family has no table of positions, or it is as long already.
        """
        kind, family = config.model_type, FAMILIES.get(config.model_type)
        deberta = kind.startswith("deberta")
        is_text = family is not None and family.images is None
        if (is_text and kind not in TABLES) or (deberta and not config.position_biased_input):
            which = "relative positions alone" if deberta else "rotary positions"
            raise self.refusal(f"this {kind} has {which}, which have no end; leave it out")
        self.check_family(config, TABLES)
        first = first_position(config)
        old = config.max_position_embeddings - first
        if self.length <= old:
            raise self.refusal(f"length: this {kind} has {old} positions; expected more, got {self.length}")
        if deberta and config.max_relative_positions < 1:
            # It means as many as the others, and these must stay.
            config.max_relative_positions = config.max_position_embeddings
        config.max_position_embeddings = self.length + first

    def reshaped(self, config: PreTrainedConfig, name: str, table: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """A table of more positions."""
        return repeated(table, shape[0], first_position(config))


def first_position(config: PreTrainedConfig) -> int:
    """Row of the position table that a text's first token takes."""
    family = FAMILIES.get(config.model_type)
    return 0 if family is None or family.first_position is None else family.first_position(config)


def length_after(steps: Sequence[object]) -> int | None:
    """Tokens that the model has positions for once these operations are done; None where none of them changes it."""
    lengths = [step.length for step in steps if isinstance(step, ExtendPositions)]
    return lengths[-1] if lengths else None


def repeated(table: torch.Tensor, rows: int, first: int) -> torch.Tensor:
    """The table (positions, width) with its rows from `first` on repeated until there are `rows` of them."""
    import torch

    again = (torch.arange(rows - first) % (len(table) - first)) + first
    return torch.cat([table[:first], table[again]])
