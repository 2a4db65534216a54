"""Scores of rows by a trained model: probabilities of classes or tags, or numbers.

Legend: N rows, C classes, H height, W width.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import chain
from typing import Any, Literal, TypeAlias

import numpy as np
from datasets import Dataset

from hf_finetune.augmentation.test_time import SeveralViews
from hf_finetune.data.inputs import EpochRows, Rows, TextInputs, columns_of
from hf_finetune.data.ragged import Ragged, flat
from hf_finetune.data.word_inputs import by_row, word_counts
from hf_finetune.errors import InputError
from hf_finetune.evaluation.half_precision import HalfPrecision
from hf_finetune.evaluation.logits import TOKENS, non_finite_row, predict_logits
from hf_finetune.evaluation.test_time import mean_probabilities
from hf_finetune.inference.image_views import ImageView, decode_images
from hf_finetune.models.exported_network import ExportedNetwork
from hf_finetune.models.kernels.layers import fused_layers
from hf_finetune.tasks.trained_model import TrainedModel
from hf_finetune.tasks.trained_pipeline import Trained, TrainedPipeline
from hf_finetune.training.precision import has_native_bf16
from hf_finetune.utils.messages import row_place

Precision = Literal["auto", "float32", "bf16"]

# With fewer rows, the comparison of the two formats costs what bfloat16 gains.
FEWEST_ROWS = 256


class Scorer:
    """Computes the scores of canonical rows, part by part, see `tasks.base.Task.scores`.

    Args:
        precision: auto: bf16 where the hardware supports it natively and there are enough rows; rows whose label could
            flip are computed again in float32, see `evaluation.half_precision`.
        batch_size: rows of a forward pass. None: as many as have `TOKENS` tokens in total, or 64 images.
        views: test-time augmentation; auto is then float32, because the two best classes of a mean over views can be
            close although they are close in no view.

    Raises:
        InputError: bf16 on a device without it, an empty batch, or operations of the other kind of data.
    """

    def __init__(
        self,
        classifier: TrainedModel,
        precision: Precision,
        *,
        batch_size: int | None = None,
        views: SeveralViews | None = None,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise InputError(f"--batch-size {batch_size}: expected at least 1")
        device = next(classifier.model.parameters()).device
        native = has_native_bf16(device)
        if precision == "bf16" and not native:
            raise InputError(f"--precision bf16: this {device.type} does not support bf16 natively; use float32")
        if views is not None:
            views.check(classifier.kind, classifier.sequence)
        classifier.task.refuse("--precision bf16", is_set=precision == "bf16")
        classifier.task.refuse("--views", is_set=views is not None)
        self.classifier, self.batch_size, self.views = classifier, batch_size, views
        if isinstance(classifier.model, ExportedNetwork):
            if precision == "bf16":
                raise InputError(
                    f"--precision bf16: {classifier.name} computes in the formats of its graph; leave it out"
                )
            native = False
        exact = views is not None or not native or "--precision bf16" in classifier.task.refuses
        self.precision = "float32" if precision == "auto" and exact else precision
        self.half: HalfPrecision | None = None
        self.rows, self.seconds, self.seconds_unchanged = 0, 0.0, 0.0

    def score(self, rows: Dataset) -> tuple[Any, Any]:
        """Return the mean scores over the views of each row, and those of the unchanged row; shapes (N, C).

        Those of words are `Ragged`.

        Raises:
            InputError: a logit is NaN or infinite, naming the row.
        """
        started = time.perf_counter()
        views = self._views(rows)
        unchanged_NC = next(views)
        self.seconds_unchanged += time.perf_counter() - started
        mean_NC = unchanged_NC if self.views is None else mean_probabilities(chain([unchanged_NC], views))
        self.seconds += time.perf_counter() - started
        self.rows += len(rows)
        return mean_NC, unchanged_NC

    @property
    def cost(self) -> float:
        """Seconds of all views relative to those of the unchanged rows."""
        return self.seconds / self.seconds_unchanged

    def probabilities(self, rows: Dataset, indices: Sequence[int] | None = None) -> Any:
        """Return the probabilities (N, C) of unchanged rows, see `score`.

        Args:
            indices: index of each row in its source, for messages. None: they are in order.

        Raises:
            InputError: a logit is NaN or infinite, naming the row.
        """
        inputs = self.classifier.inputs
        indices = range(len(rows)) if indices is None else indices
        encoded = inputs.encode_in_memory(rows)
        batches = Rows(encoded, columns_of(inputs, labels=False))
        logits_NC = self._logits(batches, inputs.lengths(encoded), word_counts(encoded))
        return self._scores(by_row(encoded, logits_NC), indices)

    def _views(self, rows: Dataset) -> Iterator[Any]:
        """Yield the probabilities (N, C) of each view, the unchanged rows first."""
        inputs, views = self.classifier.inputs, self.views
        indices = rows["row"][:]
        if views is None:
            yield self.probabilities(rows, indices)
        elif isinstance(inputs, TextInputs):
            yield self.probabilities(rows, indices)
            raw = rows.to_dict()
            for view in range(1, views.number):
                yield self.probabilities(Dataset.from_dict(views.texts(raw, indices, view)), indices)
        else:
            pixels_NCHW = decode_images(inputs, rows["image"][:])
            for view in range(views.number):
                yield self._scores(self._logits(ImageView(pixels_NCHW, indices, views, view), None), indices)

    def _scores(self, logits_NC: Any, indices: Sequence[int]) -> Any:
        if row := non_finite_row(flat(logits_NC)):
            index, values = row
            index = logits_NC.row_of_value[index] if isinstance(logits_NC, Ragged) else index
            raise InputError(
                f"{self.classifier.name}: its logits of {row_place(indices[index])} are not finite ({values}); "
                "expected numbers; its weights may be damaged: restore them, or train again"
            )
        return self.classifier.task.scores(logits_NC)

    def _logits(self, batches: EpochRows, lengths: np.ndarray | None, counts: np.ndarray | None = None) -> np.ndarray:
        model, collate = self.classifier.model, self.classifier.inputs.collate
        if self.precision == "auto" and self.half is None and len(batches) < FEWEST_ROWS:
            self.precision = "float32"
        if self.precision == "float32":
            options: dict[str, Any] = {"batch_size": self.batch_size, "tokens": TOKENS, "progress": "score"}
            return predict_logits(model, batches, collate, lengths=lengths, counts=counts, **options)
        if self.half is None:
            rescore = self.precision == "auto"
            self.half = HalfPrecision(
                model,
                collate,
                rescore=rescore,
                batch_size=self.batch_size,
                tokens=TOKENS,
                cuts_C=self.classifier.task.cuts_C,
            )
        # An eighth faster than single layers: fewer shapes of matrix products are compiled. So are rows in float32.
        with nullcontext() if self.half.half is None else fused_layers(self.half.half), fused_layers(model):
            return self.half.logits(batches, lengths)

    def report(self) -> dict[str, Any]:
        """Return {"rows", "throughput", "precision"}.

        The time is that from text or image to label, without reading and writing of files. For the number format, see
        `HalfPrecision.report`; there each view of a row counts as a row.
        """
        return {
            "rows": self.rows,
            "throughput": {"predict_rows_per_s": round(self.rows / max(self.seconds, 1e-9), 2)},
            "precision": {"format": "float32"} if self.half is None else self.half.report(),
        }


class PipelineScorer:
    """Computes the scores of canonical rows by a pipeline of scikit-learn, see `Scorer`."""

    def __init__(self, classifier: TrainedPipeline) -> None:
        self.classifier = classifier
        self.views: SeveralViews | None = None
        self.rows, self.seconds, self.cost = 0, 0.0, 1.0

    def score(self, rows: Dataset) -> tuple[Any, Any]:
        """Return the scores of each row twice, as `Scorer.score` does without views.

        Raises:
            InputError: a column of numbers has another cell.
        """
        started = time.perf_counter()
        scores_NC = self.classifier.task.scores(self.classifier.logits(rows))
        self.seconds += time.perf_counter() - started
        self.rows += len(rows)
        return scores_NC, scores_NC

    def report(self) -> dict[str, Any]:
        """Return {"rows", "throughput", "precision"}, see `Scorer.report`."""
        speed = {"predict_rows_per_s": round(self.rows / max(self.seconds, 1e-9), 2)}
        return {"rows": self.rows, "throughput": speed, "precision": {"format": "float32"}}


AnyScorer: TypeAlias = Scorer | PipelineScorer


def scorer_of(
    classifier: Trained, precision: Precision, *, batch_size: int | None = None, views: SeveralViews | None = None
) -> AnyScorer:
    """Return what scores rows by a classifier, see `Scorer`.

    Raises:
        InputError: see `Scorer`; or bf16 or views with a pipeline of scikit-learn.
    """
    if isinstance(classifier, TrainedModel):
        return Scorer(classifier, precision, batch_size=batch_size, views=views)
    for flag, is_set in (("--precision bf16", precision == "bf16"), ("--views", views is not None)):
        if is_set:
            raise InputError(f"{flag}: expected its default with {classifier.name}, which has no network")
    return PipelineScorer(classifier)


def probabilities(classifier: TrainedModel, rows: Dataset, *, batch_size: int | None = None) -> Any:
    """Return the probabilities (N, C) of canonical rows, in float32."""
    return Scorer(classifier, "float32", batch_size=batch_size).probabilities(rows)
