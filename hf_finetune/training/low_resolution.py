"""Lower image resolution in the first part of training, where details matter less: cheaper steps."""

from transformers import TrainerState

from hf_finetune.models.patches import Shrink
from hf_finetune.training.hooks import Batch, Hook


class LowResolution(Hook):
    """Shrinks the images of the first steps.

    Args:
        shrink: shrinks a batch of images.
        share: share of all optimizer steps.
    """

    def __init__(self, shrink: Shrink, share: float) -> None:
        self.shrink, self.share = shrink, share

    def on_batch(self, batch: Batch, state: TrainerState) -> Batch:
        """Shrink by the step number alone, so that a resumed run continues exactly."""
        if state.global_step >= self.share * state.max_steps:
            return batch
        return {**batch, "pixel_values": self.shrink(batch["pixel_values"])}
