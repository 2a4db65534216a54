"""Faster computation on a CPU: the same results up to rounding, and dropout with the same probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from transformers import PreTrainedModel

from hf_finetune.models.kernels.dropout import fast_dropout
from hf_finetune.models.kernels.layers import fused_layers
from hf_finetune.models.kernels.projections import fused_projections


@dataclass(frozen=True)
class Shortcuts:
    """The shortcuts to use on a CPU; other devices use none."""

    fast_dropout: bool = True
    """See `kernels.dropout`."""
    fused_layers: bool = True
    """See `kernels.layers`."""
    fused_projections: bool = True
    """See `kernels.projections`; for layers that `fused_layers` does not replace."""

    @property
    def without_gradients(self) -> Shortcuts:
        """The shortcuts that are faster in prediction, too."""
        return Shortcuts(fast_dropout=False, fused_layers=self.fused_layers, fused_projections=False)

    @contextmanager
    def use(self, model: PreTrainedModel) -> Iterator[None]:
        """Use them on a model, in the context."""
        with ExitStack() as stack:
            if model.device.type == "cpu":
                if self.fast_dropout:
                    stack.enter_context(fast_dropout(model))
                if self.fused_layers:
                    stack.enter_context(fused_layers(model, shared_masks=self.fast_dropout))
                if self.fused_projections:
                    stack.enter_context(fused_projections(model))
            yield
