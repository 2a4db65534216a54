"""Chunks whose vectors are combined before the head."""

from typing import Literal

from hf_finetune.data.long.windows import Weights, Windowed
from hf_finetune.utils.config import Count, CountOrZero, configclass

CHUNKS = "chunks"
"""Input of a batch: the shares of each row's chunks, whose pooled vectors the network combines, see
`windows.split_windows`."""


@configclass
class Chunk(Windowed):
    """Read a long text in chunks. The encoder reads each by itself, their pooled vectors are combined, and the head
    reads the result (arXiv:1910.10781). All of it trains end to end. No stock class has such a head, so encoder/ and
    head.safetensors are saved in place of model/."""

    pooling: Literal["mean", "max", "attention"] = "mean"
    """How the vectors of the chunks are combined. attention: a learned weighted mean."""
    stride: CountOrZero = 0
    """Tokens that neighboring chunks share, at most half of `max_length`."""
    most_chunks: Count = 8
    """Chunks that are read of a text at most, from its beginning. A forward pass has no more chunks than
    `per_device_train_batch_size`, unless a text alone has more."""
    weights: Weights = "tokens"
    """How much each chunk counts, before attention: as many times as it has tokens, or each the same. The last chunk of
    a text may have a few tokens only."""

    shares = CHUNKS
    limit = "most_chunks"

    @property
    def windows(self) -> int:
        """Chunks that are read of a text at most."""
        return self.most_chunks
