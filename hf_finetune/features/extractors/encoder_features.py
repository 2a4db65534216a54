"""Features of a pretrained encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge

from hf_finetune.features.extractors.base import Computed, StatePooling, TableColumns
from hf_finetune.utils.config import configclass
from hf_finetune.utils.embedded import TEXT_CHECKPOINT

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset


@configclass
class EncoderFeatures(Computed):
    """The hidden states of a layer of a pretrained encoder of texts or images, pooled to one vector a row."""

    checkpoint: str = TEXT_CHECKPOINT
    """Hub id or folder: a transformer, or a convolutional network (ResNet, EfficientNet, ConvNeXt); or a run."""
    layer: int = -1
    """Layer: 0 is below the first one, -1 the top one, -2 that below it. Of convolutional networks the stages."""
    pooling: StatePooling = "mean"
    """How the vectors of tokens or places become one: mean, the first token (cls), or the largest number (max)."""
    max_length: Annotated[int, Ge(4)] = 128
    """Longest text in tokens; the rest is cut off."""

    expects = "texts or images"

    @property
    def name(self) -> str:
        """Such as all-MiniLM-L6-v2/-1/mean."""
        return f"{PurePath(self.checkpoint).name}/{self.layer}/{self.pooling}"

    def reads(self, columns: TableColumns) -> bool:
        """Any rows."""
        return True

    def compute(self, rows: Dataset, columns: TableColumns, cache_gb: float = 0.0) -> tuple[Sequence[str], np.ndarray]:
        """Return the features of each row."""
        return self.compute_all([self], rows, columns, cache_gb)[self]

    @staticmethod
    def compute_all(
        extractors: Sequence[EncoderFeatures], rows: Dataset, columns: TableColumns, cache_gb: float = 0.0
    ) -> dict[EncoderFeatures, tuple[Sequence[str], np.ndarray]]:
        """Return what `compute` does of several, those of one encoder from one forward pass.

        Raises:
            InputError: a checkpoint cannot be loaded, or has no such layer or pooling.
        """
        from hf_finetune.features.encoder_states import encoder_features, load_encoder

        kind: Literal["text", "image"] = "image" if columns.has_images else "text"
        features: dict[EncoderFeatures, tuple[Sequence[str], np.ndarray]] = {}
        for checkpoint, max_length in dict.fromkeys((each.checkpoint, each.max_length) for each in extractors):
            of_one = [e for e in extractors if (e.checkpoint, e.max_length) == (checkpoint, max_length)]
            source = load_encoder(checkpoint, kind, max_length)
            states = encoder_features(source, rows, [(e.layer, e.pooling) for e in of_one], cache_gb=cache_gb)
            for each in of_one:
                features_ND = states[each.layer, each.pooling]
                features[each] = [str(i) for i in range(features_ND.shape[1])], features_ND
        return features
