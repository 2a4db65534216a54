"""Class probabilities of rows from a finished classifier, part by part.

Legend: N rows, C classes, H height, W width.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import chain
from typing import Any, Literal

import numpy as np
from datasets import Dataset

from hf_finetune.augmentation.test_time import SeveralViews
from hf_finetune.data.inputs import EpochRows, Rows, TextInputs, columns_of
from hf_finetune.errors import InputError
from hf_finetune.evaluation.half_precision import HalfPrecision
from hf_finetune.evaluation.logits import TOKENS, predict_logits
from hf_finetune.evaluation.metrics import softmax
from hf_finetune.evaluation.test_time import mean_probabilities
from hf_finetune.inference.image_views import ImageView, decode_images
from hf_finetune.models.kernels.layers import fused_layers
from hf_finetune.training.classifier import Classifier
from hf_finetune.training.precision import default_device, has_native_bf16

Precision = Literal["auto", "float32", "bf16"]

# With fewer rows, comparing the two formats costs what bfloat16 gains.
FEWEST_ROWS = 256


class Scorer:
    """Class probabilities of canonical rows, part by part.

    Args:
        precision: float32; bf16; or auto: bf16 where the hardware multiplies it natively and there are rows enough to
            gain by it, with every row again in float32 whose label could flip, see `evaluation.half_precision`.
        batch_size: rows of a forward pass; None: as many as have `TOKENS` tokens together, or 64 images.
        views: test-time augmentation. auto is float32 then: bfloat16 is made sure of by the two best classes of what is
            computed, and those of a mean can be close where those of no view are.

    Raises:
        InputError: bf16 on a device without it, a batch of no rows, or operations that are not for what the classifier
            reads.
    """

    def __init__(
        self,
        classifier: Classifier,
        precision: Precision,
        *,
        batch_size: int | None = None,
        views: SeveralViews | None = None,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise InputError(f"--batch-size {batch_size}: expected at least 1")
        native = has_native_bf16(default_device())
        if precision == "bf16" and not native:
            raise InputError(
                f"--precision bf16: this {default_device().type} does not multiply bf16 natively; use float32"
            )
        if views is not None:
            views.check(classifier.kind)
        self.classifier, self.batch_size, self.views = classifier, batch_size, views
        self.precision = "float32" if precision == "auto" and (views is not None or not native) else precision
        self.half: HalfPrecision | None = None
        self.seconds = self.seconds_unchanged = 0.0

    def score(self, rows: Dataset) -> tuple[np.ndarray, np.ndarray]:
        """The mean over each row's views, and the unchanged rows alone; shapes (N, C)."""
        started = time.perf_counter()
        views = self._views(rows)
        unchanged_NC = next(views)
        self.seconds_unchanged += time.perf_counter() - started
        mean_NC = mean_probabilities(chain([unchanged_NC], views))
        self.seconds += time.perf_counter() - started
        return mean_NC, unchanged_NC

    @property
    def cost(self) -> float:
        """Seconds of all views over those of the unchanged rows."""
        return self.seconds / self.seconds_unchanged

    def probabilities(self, rows: Dataset) -> np.ndarray:
        """Shape (N, C), of the unchanged rows."""
        inputs = self.classifier.inputs
        encoded = inputs.encode_in_memory(rows)
        return self._softmax(Rows(encoded, columns_of(inputs, labels=False)), inputs.lengths(encoded))

    def _views(self, rows: Dataset) -> Iterator[np.ndarray]:
        """Shape (N, C) for each view, the unchanged rows first."""
        inputs, views = self.classifier.inputs, self.views
        if views is None:
            yield self.probabilities(rows)
        elif isinstance(inputs, TextInputs):
            yield self.probabilities(rows)
            raw = rows.to_dict()
            for view in range(1, views.number):
                yield self.probabilities(Dataset.from_dict(views.texts(raw, raw["row"], view)))
        else:
            # Decoded once for all views.
            places, pixels_NCHW = rows["row"][:], decode_images(inputs, rows["image"][:])
            for view in range(views.number):
                yield self._softmax(ImageView(pixels_NCHW, places, views, view), None)

    def _softmax(self, batches: EpochRows, lengths: np.ndarray | None) -> np.ndarray:
        model, collate = self.classifier.model, self.classifier.inputs.collate
        if self.precision == "auto" and self.half is None and len(batches) < FEWEST_ROWS:
            self.precision = "float32"
        if self.precision == "float32":
            return softmax(
                predict_logits(model, batches, collate, lengths=lengths, batch_size=self.batch_size, tokens=TOKENS)
            )
        if self.half is None:
            rescore = self.precision == "auto"
            self.half = HalfPrecision(model, collate, rescore=rescore, batch_size=self.batch_size, tokens=TOKENS)
        # An eighth faster than the layers one by one: fewer shapes of products are compiled.
        with nullcontext() if self.half.half is None else fused_layers(self.half.half):
            return softmax(self.half.logits(batches, lengths))

    def throughput(self, rows: int) -> dict[str, float]:
        """Of so many rows, from text or image to label; reading and writing files is not in it."""
        return {"predict_rows_per_s": round(rows / max(self.seconds, 1e-9), 2)}

    def report(self) -> dict[str, Any]:
        """Which format computed what, see `HalfPrecision.report`; each view of a row counts as one."""
        return {"format": "float32"} if self.half is None else self.half.report()


def probabilities(classifier: Classifier, rows: Dataset, *, batch_size: int | None = None) -> np.ndarray:
    """Class probabilities (N, C) of canonical rows, in float32."""
    return Scorer(classifier, "float32", batch_size=batch_size).probabilities(rows)
