"""Sliding windows whose predictions are averaged."""

from hf_finetune.data.long.windows import Weights, Windowed
from hf_finetune.utils.config import Count, CountOrZero, configclass

VOTES = "votes"
"""Input of a batch: the shares of each row's windows, whose logits are averaged, see `windows.split_windows`."""


@configclass
class Sliding(Windowed):
    """Read a long text in windows that overlap. The prediction of a text, which also trains, is the mean of its
    windows' logits: of numbers their mean, of classes the normalized geometric mean of their probabilities."""

    stride: CountOrZero = 32
    """Tokens that neighboring windows share, at most half of `max_length`."""
    most_windows: Count = 8
    """Windows that are read of a text at most, from its beginning. A forward pass has no more windows than
    `per_device_train_batch_size`, unless a text alone has more."""
    weights: Weights = "tokens"
    """How much each window counts: as many times as it has tokens, or each the same. The last window of a text may have
    a few tokens only."""

    shares = VOTES
    limit = "most_windows"

    @property
    def windows(self) -> int:
        """Windows that are read of a text at most."""
        return self.most_windows
