"""Surgery on the positions of a text encoder: room for longer texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hf_finetune.models.families import FAMILIES, family_of, names_where
from hf_finetune.models.surgery.rebuild import Operation
from hf_finetune.utils.config import Count, configclass

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

# Families with a table of positions. DeBERTa's first version, not in `FAMILIES`, counts from 0 as the second does.
TABLES = (*names_where(lambda family: family.first_position is not None), "deberta")


@configclass
class ExtendPositions(Operation):
    """Give a text encoder positions for longer texts; `data.max_length` may then be as large.

    The table of learned positions is repeated (Longformer, arXiv:2004.05150, section 5): positions matter mostly
    relative to nearby tokens, so a copy is a good start, and the logits of shorter texts do not change. Interpolating
    the table would change them.
    """

    length: Count
    """Tokens of the longest text, special tokens included; more than the checkpoint has positions for."""

    def update_config(self, config: PreTrainedConfig) -> None:
        """Set the number of positions in `config`.

        Raises:
            InputError: the family has no table of positions, or the table is long enough.
        """
        kind = config.model_type
        deberta = kind.startswith("deberta")
        rotary = kind in FAMILIES and kind not in TABLES and family_of(config).images is None
        if rotary or (deberta and not config.position_biased_input):
            which = "only relative positions" if deberta else "rotary positions"
            raise self.refusal(f"this {kind} has {which}, which have no maximum length; leave it out")
        self.check_family(config, TABLES)
        first = first_position(config)
        before = config.max_position_embeddings - first
        if self.length <= before:
            raise self.refusal(f"length: this {kind} has {before} positions; expected more, got {self.length}")
        if deberta and config.max_relative_positions < 1:
            # Below 1 it follows max_position_embeddings, but relative positions must not change.
            config.max_relative_positions = config.max_position_embeddings
        config.max_position_embeddings = self.length + first

    def reshaped(self, config: PreTrainedConfig, name: str, table: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """Return a longer table of positions."""
        return repeat_rows(table, shape[0], first_position(config))


def first_position(config: PreTrainedConfig) -> int:
    """Return the row of the position table that the first token uses."""
    first = family_of(config).first_position
    return 0 if first is None else first(config)


def length_after(steps: Sequence[object]) -> int | None:
    """Return the number of tokens that these operations make positions for, None if they change nothing about it."""
    lengths = [step.length for step in steps if isinstance(step, ExtendPositions)]
    return lengths[-1] if lengths else None


def repeat_rows(table: torch.Tensor, rows: int, first: int) -> torch.Tensor:
    """Repeat the rows of a table (positions, width) from `first` on until it has `rows` rows."""
    import torch

    again = (torch.arange(rows - first) % (len(table) - first)) + first
    return torch.cat([table[:first], table[again]])
