"""Images at a lower resolution in the first part of training, where details matter less: cheaper steps."""

from __future__ import annotations

from transformers import TrainerState

from hf_finetune.models.patches import Shrink
from hf_finetune.training.hooks import Batch, Hook


class LowResolution(Hook):
    """Shrinks images.

    Args:
        shrink: makes them smaller.
        share: of all optimizer steps, the first ones.
    """

    def __init__(self, shrink: Shrink, share: float) -> None:
        self.shrink, self.share = shrink, share

    def on_batch(self, batch: Batch, state: TrainerState) -> Batch:
        """By the step alone, so that a run that was resumed does as one that was not."""
        if state.global_step >= self.share * state.max_steps:
            return batch
        return {**batch, "pixel_values": self.shrink(batch["pixel_values"])}
