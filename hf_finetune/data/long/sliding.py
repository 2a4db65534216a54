"""Sliding windows whose predictions are averaged."""

from hf_finetune.data.long.windows import Windowed
from hf_finetune.utils.config import Count, CountOrZero, configclass

VOTES = "votes"
"""Input of a batch: the number of windows of each row, whose logits are averaged."""


@configclass
class Sliding(Windowed):
    """Read a long text in windows that overlap. Each window trains on the label of its text. The prediction of a text
    is the mean of its windows' logits: of numbers their mean, of classes the normalized geometric mean of their
    probabilities."""

    stride: CountOrZero = 32
    """Tokens that neighboring windows share, at most half of `max_length`."""
    most_windows: Count = 8
    """Windows that are read of a text at most, from its beginning. A forward pass has no more windows than
    `per_device_train_batch_size`, unless a text alone has more."""

    counts = VOTES
    limit = "most_windows"

    @property
    def windows(self) -> int:
        """Windows that are read of a text at most."""
        return self.most_windows
