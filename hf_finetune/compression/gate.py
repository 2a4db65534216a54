"""The gate of an exported classifier: on rows of the data, and by its own example in a fresh process.

Legend: N rows, C classes.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from hf_finetune.compression import run_example
from hf_finetune.compression.config import ExportOptions
from hf_finetune.data.inputs import Rows, columns_of
from hf_finetune.data.labels import labels_of
from hf_finetune.data.ragged import flat
from hf_finetune.data.word_inputs import PLACES, by_row
from hf_finetune.errors import GateError, LossError
from hf_finetune.evaluation.differences import largest_loss, metric_of, points
from hf_finetune.evaluation.logits import predict_logits
from hf_finetune.pipeline.parity import (
    TOLERANCE,
    Check,
    compare,
    plain_rows,
    reference_logits,
    rows_to_load,
)
from hf_finetune.tasks.trained_model import TrainedModel
from hf_finetune.training.precision import exact_float32
from hf_finetune.utils.fresh_process import in_fresh_process

EXAMPLE_ROWS = 16
"""Rows of the fresh process."""


@dataclass(frozen=True)
class Comparison:
    """An exported classifier against the model."""

    rows: int
    max_abs_difference: float
    """Largest difference of the logits."""
    tolerance: float
    """Of float32: what it may be."""
    label_agreement: float
    """Share of rows, or of words, with the same prediction."""
    example: Check
    """Of the logits that example.py computes in a fresh process."""
    difference: dict[str, Any] | None
    """Paired difference of the metric on labeled rows, with its verdict. None: the rows have no labels."""
    calibration_shift: float
    """Mean absolute difference of the scores."""

    @property
    def judged(self) -> dict[str, Any]:
        """`difference` of rows that have labels."""
        assert self.difference is not None, "rows without labels were refused"
        return self.difference

    @property
    def points_lost(self) -> float:
        """By how many points, or hundredths, the metric that judges is worse."""
        return -100 * self.judged["value"]

    def to_dict(self) -> dict[str, Any]:
        """Return the content for export.json."""
        return {**vars(self), "example": self.example.to_dict()}


def compare_exported(
    model: TrainedModel, exported: TrainedModel, folder: Path, rows: Dataset, *, lossy: bool
) -> Comparison:
    """Compare an exported classifier with the model.

    Args:
        folder: of the exported classifier, with example.py.
        rows: canonical rows, with labels or without.
        lossy: its weights are rounded: the example is compared with the exported classifier alone.
    """
    inputs, task = model.inputs, model.task
    encoded = inputs.encode(rows)
    expected_NC, found_NC = (reference_logits(each.model, inputs, encoded) for each in (model, exported))
    scores_NC, others_NC = (task.scores(by_row(encoded, each)) for each in (found_NC, expected_NC))
    few = rows.select(range(min(EXAMPLE_ROWS, len(rows))))
    size = task.logit_size(expected_NC)
    return Comparison(
        len(rows),
        float(np.abs(found_NC - expected_NC).max()),
        TOLERANCE * size,
        task.agreement(scores_NC, task.settled(others_NC)),
        check_example(folder, exported if lossy else model, few, size),
        task.compare(labels_of(rows), scores_NC, task.settled(others_NC)) if "label" in rows.column_names else None,
        float(np.abs(flat(scores_NC) - flat(others_NC)).mean()),
    )


def refuse(comparison: Comparison, options: ExportOptions) -> None:
    """Refuse an exported classifier.

    Args:
        options: in float32 logits must be equal; the rows of other formats have labels.

    Raises:
        GateError: saying by how much it differs.
        LossError: saying what it loses.
    """
    if not comparison.example.ok:
        why = comparison.example.error or f"its logits differ by {comparison.example.max_abs_difference:.3g}"
        raise GateError(f"export: example.py does not compute in a fresh process what the exported model does: {why}")
    if options.weights == "float32":
        # Not `difference > tolerance`: NaN must fail.
        if not comparison.max_abs_difference <= comparison.tolerance:
            raise GateError(
                f"export: the logits of the exported model differ by {comparison.max_abs_difference:.3g} on "
                f"{comparison.rows} rows; at most {comparison.tolerance:.3g} are allowed; use the model itself"
            )
        return
    if not comparison.points_lost <= options.max_loss:
        raise LossError(
            f"export: {options.weights} loses more than --max-loss {options.max_loss:g} "
            f"({largest_loss(options.max_loss, metric_of(comparison.judged))}) on {comparison.rows} rows: "
            f"{points(comparison.judged, decimals=2)}"
        )


def check_example(folder: Path, network: TrainedModel, rows: Dataset, size: float) -> Check:
    """Compare the logits of example.py, row by row in a fresh process, with those of a classifier."""
    inputs = network.inputs
    encoded = inputs.encode(rows)
    # One row a batch: int8 scales the activations of a batch together.
    batches = Rows(encoded, columns_of(inputs, labels=False))
    with exact_float32():
        expected_NC = predict_logits(network.model, batches, inputs.collate, batch_size=1)
    with tempfile.TemporaryDirectory(prefix="hf_finetune_export_") as name:
        plain = plain_rows(rows_to_load(rows, encoded), Path(name))
        given = [
            row.get("image") or ([row["text"], row["text_pair"]] if "text_pair" in row else row["text"])
            for row in plain
        ]
        logits = example_outputs(folder, given, "logits")
    if isinstance(logits, str):
        return Check(ok=False, error=logits)
    if PLACES in encoded.column_names:
        logits = [each[row["places"]] for each, row in zip(logits, plain, strict=True)]
        found_NC = np.concatenate(logits)
    else:
        found_NC = np.stack(logits)
    return compare(found_NC, expected_NC, TOLERANCE * size)


def example_outputs(folder: Path, rows: Sequence[Any], function: str) -> list[np.ndarray] | str:
    """Return what a function of example.py computes of each row in a fresh process, or the last line of its error.

    Args:
        rows: texts, pairs or paths of images.
    """
    with tempfile.TemporaryDirectory(prefix="hf_finetune_export_") as name:
        job = Path(name) / "job.json"
        job.write_text(json.dumps({"folder": str(folder.resolve()), "rows": list(rows), "function": function}))
        with in_fresh_process(Path(run_example.__file__), job) as end:
            error = end()
        if error is not None:
            return error
        with np.load(job.with_suffix(".npz")) as archive:
            return [archive[key] for key in archive.files]
