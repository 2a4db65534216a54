"""Using a finished classifier: labels for new rows, and metrics for labelled ones."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from tqdm import tqdm

from hf_finetune.augmentation.test_time import SeveralViews
from hf_finetune.data.config import SourceSplit
from hf_finetune.data.duplicates import row_digests
from hf_finetune.data.inputs import Rows, TextInputs, columns_of
from hf_finetune.data.loading import stream
from hf_finetune.data.provenance import row_keys
from hf_finetune.errors import InputError
from hf_finetune.evaluation.half_precision import HalfPrecision
from hf_finetune.evaluation.intervals import bootstrap
from hf_finetune.evaluation.logits import PART_ROWS, TOKENS, predict_logits
from hf_finetune.evaluation.metrics import softmax
from hf_finetune.evaluation.test_time import gain, mean_probabilities
from hf_finetune.inference.decoded_images import Pictures, decoded
from hf_finetune.models.kernels.layers import fused_layers
from hf_finetune.training.classifier import Classifier
from hf_finetune.training.precision import default_device, has_native_bf16
from hf_finetune.utils.tables import check_output, table_writer

logger = logging.getLogger("hf_finetune")
Precision = Literal["auto", "float32", "bf16"]

# With fewer rows, comparing the two formats costs what bfloat16 gains.
FEWEST_ROWS = 256


class Scorer:
    """Class probabilities of canonical rows, part by part.

    Args:
        precision: float32; bf16; or auto: bf16 where the hardware multiplies it natively and there are rows enough to
            gain by it, with every row again in float32 whose label could be another there, see `evaluation.half_precision`.
        batch_size: rows of a forward pass; None: as many as have `TOKENS` tokens together, or 64 pictures.
        views: see every row several times. auto is float32 then: bfloat16 is made sure of by the two best classes of
            what is computed, and those of a mean can be close where those of no view are.

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
        """The mean over each row's views, and what the rows as they are have; shapes (N, C)."""
        started = time.perf_counter()
        parts = self._of_views(rows)
        unchanged_NC = next(parts)
        self.seconds_unchanged += time.perf_counter() - started
        mean_NC = mean_probabilities(chain([unchanged_NC], parts))
        self.seconds += time.perf_counter() - started
        return mean_NC, unchanged_NC

    @property
    def cost(self) -> float:
        """Seconds of all views over those of the rows as they are."""
        return self.seconds / self.seconds_unchanged

    def probabilities(self, rows: Dataset) -> np.ndarray:
        """Shape (N, C), of the rows as they are."""
        inputs = self.classifier.inputs
        encoded = inputs.encode_in_memory(rows) if isinstance(inputs, TextInputs) else inputs.encode(rows)
        return self._softmax(Rows(encoded, columns_of(inputs, labels=False)), inputs.lengths(encoded))

    def _of_views(self, rows: Dataset) -> Iterator[np.ndarray]:
        """Shape (N, C) for each view, the rows as they are first."""
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
            places, pixels_NCHW = rows["row"][:], decoded(inputs, rows["image"][:])
            for view in range(views.number):
                yield self._softmax(Pictures(pixels_NCHW, places, views, view), None)

    def _softmax(self, batches: torch.utils.data.Dataset, lengths: np.ndarray | None) -> np.ndarray:
        model, collate = self.classifier.model, self.classifier.inputs.collate
        options = {"batch_size": self.batch_size, "tokens": TOKENS}
        if self.precision == "auto" and self.half is None and len(batches) < FEWEST_ROWS:
            self.precision = "float32"
        if self.precision == "float32":
            return softmax(predict_logits(model, batches, collate, lengths=lengths, **options))
        if self.half is None:
            self.half = HalfPrecision(model, collate, rescore=self.precision == "auto", **options)
        # An eighth faster than the layers one by one: fewer shapes of products are compiled.
        with nullcontext() if self.half.half is None else fused_layers(self.half.half):
            return softmax(self.half.logits(batches, lengths))

    def throughput(self, rows: int) -> dict[str, float]:
        """Of so many rows, from text or picture to label; reading and writing files is not in it."""
        return {"predict_rows_per_s": round(rows / max(self.seconds, 1e-9), 2)}

    def report(self) -> dict[str, Any]:
        """What was computed how, see `HalfPrecision.report`; each view of a row counts as one."""
        return {"format": "float32"} if self.half is None else self.half.report()


def probabilities(classifier: Classifier, rows: Dataset, *, batch_size: int | None = None) -> np.ndarray:
    """Class probabilities (N, C) of canonical rows, in float32."""
    return Scorer(classifier, "float32", batch_size=batch_size).probabilities(rows)


def predict(
    classifier: Classifier,
    source: SourceSplit,
    output: Path,
    *,
    batch_size: int | None = None,
    precision: Precision = "auto",
    views: SeveralViews | None = None,
    digests: bool = False,
) -> dict[str, Any]:
    """Label every row of `source` and write row, predicted and p:<name> per class, in the source's order.

    The source is read and the answer written a part at a time; `output` appears when it is whole. How far bfloat16 is
    from float32, where it was used, is logged, and so is what views change.

    Args:
        batch_size, precision, views: see `Scorer`.
        digests: write the column `digest` as well, see `data.duplicates.row_digests`, by which `distillation.precomputed` finds a row.

    Returns:
        {"rows", "throughput", "precision"}, as in `evaluate`.

    Raises:
        InputError: for an output that is not .csv, .parquet or .jsonl, or unreadable rows; `output` is not touched.
    """
    check_output(output, source.path)
    scorer = Scorer(classifier, precision, batch_size=batch_size, views=views)
    written, changed = 0, 0
    with table_writer(output, classifier.labels, digests=digests) as write, _bar("predict") as bar:
        for rows in _batches(classifier, source, require_label=False):
            found_NC, unchanged_NC = scorer.score(rows)
            keys = [[key.hex() for key in row_digests(rows.with_format("arrow")[:])]] if digests else []
            write(rows["row"][:], found_NC, *keys)
            written += len(rows)
            changed += int((found_NC.argmax(-1) != unchanged_NC.argmax(-1)).sum())
            bar.update(len(rows))
    if views is not None:
        logger.info(
            "%d views: %d of %d labels are not those of the unchanged rows; %.1f times the seconds",
            views.number,
            changed,
            written,
            scorer.cost,
        )
    if scorer.half is not None:
        report = scorer.report()
        logger.info(
            "computed in bfloat16: probabilities within %.2g of float32's on the %d rows computed in both, "
            "labels the same on %.1f%% of %d; %d rows with two close classes are given in float32",
            report["largest_probability_difference"],
            report["rows_compared"],
            100 * report["label_agreement"],
            report["rows_of_label_agreement"],
            report["rows_in_float32"],
        )
    return {"rows": written, "throughput": scorer.throughput(written), "precision": scorer.report()}


def evaluate(
    classifier: Classifier,
    source: SourceSplit,
    *,
    batch_size: int | None = None,
    resamples: int = 1000,
    precision: Precision = "auto",
    views: SeveralViews | None = None,
    trained_on: np.ndarray | None = None,
) -> dict[str, Any]:
    """Score labelled rows: {"rows", "metrics" with intervals, "rows_trained_on", "throughput", "precision"}.

    With views these are theirs, and "views" tells what they are, what they gain and what they cost: {"number", "augment",
    "seed", "without" (the metrics of the unchanged rows), "difference" (see `evaluation.test_time.gain`), "cost" (seconds
    over those of the unchanged rows alone)}.

    Args:
        batch_size, views: see `Scorer`.
        precision: auto is float32 here; with bf16 the labels' agreement with float32 stands under "precision".
        trained_on: keys of rows that are no test of this classifier, see `data.provenance.trained_on`; they are counted, and a
            warning is logged. None: not known, and null in the result.

    Raises:
        InputError: for a row without a label, or with one that the classifier does not know.
    """
    used: Precision = "float32" if precision == "auto" else precision
    scorer = Scorer(classifier, used, batch_size=batch_size, views=views)
    labels, found, unchanged = [], [], []
    known = None if trained_on is None else 0
    with _bar("evaluate") as bar:
        for rows in _batches(classifier, source, require_label=True):
            found_NC, unchanged_NC = scorer.score(rows)
            found.append(found_NC)
            unchanged.append(unchanged_NC)
            labels.append(np.asarray(rows["label"][:]))
            if trained_on is not None:
                known += int(np.isin(row_keys(rows), trained_on).sum())
            bar.update(len(rows))
    all_labels, all_found_NC = np.concatenate(labels), np.concatenate(found)
    intervals = bootstrap(all_labels, all_found_NC, resamples=resamples)
    if known:
        logger.warning(
            "the model was trained on %d of these %d rows: what is measured on them is too good",
            known,
            len(all_labels),
        )
    result = {
        "rows": len(all_labels),
        "metrics": {name: interval.to_dict() for name, interval in intervals.items()},
        "rows_trained_on": known,
        "throughput": scorer.throughput(len(all_labels)),
        "precision": scorer.report(),
    }
    if views is not None:
        compared = gain(all_labels, all_found_NC, np.concatenate(unchanged), resamples=resamples)
        result["views"] = {**views.to_dict(), **compared, "cost": round(scorer.cost, 2)}
    return result


def _batches(classifier: Classifier, source: SourceSplit, *, require_label: bool) -> Iterator[Dataset]:
    labels = classifier.labels if require_label else None
    batches = stream(source, classifier.kind, labels=labels, batch_rows=PART_ROWS[classifier.kind])
    for number, rows in enumerate(batches):
        if number == 0 and classifier.pairs and "text_pair" not in rows.column_names:
            logger.warning(
                "%s: the model was trained on pairs of texts and these are single texts, which it was never shown; "
                "name the second column by --text-pair",
                source.path,
            )
        yield rows


@contextmanager
def _bar(name: str) -> Iterator[tqdm]:
    # On a terminal only, and wiped off at the end: a bad row is told on the first line.
    with tqdm(desc=name, unit="row", dynamic_ncols=True, leave=False, disable=None) as bar:
        yield bar
