"""Faster computation of what a model does on a CPU: the same numbers, or dropout with the same odds."""

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
    """Which of them are used; on other devices than a CPU none is."""

    fast_dropout: bool = True
    """See `kernels.dropout`."""
    fused_layers: bool = True
    """See `kernels.layers`."""
    fused_projections: bool = True
    """See `kernels.projections`; for layers that are not computed as one function."""

    @property
    def without_gradients(self) -> Shortcuts:
        """Those that gain something where nothing trains."""
        return Shortcuts(fast_dropout=False, fused_layers=self.fused_layers, fused_projections=False)

    @contextmanager
    def use(self, model: PreTrainedModel) -> Iterator[None]:
        """Inside, they are used; after, the model is as before."""
        with ExitStack() as stack:
            if model.device.type == "cpu":
                if self.fast_dropout:
                    stack.enter_context(fast_dropout(model))
                if self.fused_layers:
                    stack.enter_context(fused_layers(model, shared_masks=self.fast_dropout))
                if self.fused_projections:
                    stack.enter_context(fused_projections(model))
            yield
