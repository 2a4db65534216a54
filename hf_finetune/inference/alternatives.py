"""Other number formats for an export that loses too much: measured, and the two best ones named."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from datasets import Dataset

from hf_finetune.compression.config import ExportOptions, QuantizationOptions
from hf_finetune.compression.export import compared_export
from hf_finetune.compression.export_formats.choose import format_of
from hf_finetune.compression.gate import Comparison
from hf_finetune.compression.quantization.quantize import needs_rows
from hf_finetune.errors import InputError
from hf_finetune.evaluation.differences import points
from hf_finetune.tasks.trained_model import TrainedModel
from hf_finetune.utils.console import Progress

FLOAT_LAYERS = 4
"""Of the most sensitive layers that stay in float32."""
MOST = 2


@dataclass(frozen=True)
class Alternative:
    """Another number format, as it was measured."""

    options: ExportOptions
    comparison: Comparison
    bytes: int

    def __str__(self) -> str:
        flags = f"--weights {self.options.weights}"
        if layers := self.options.quantization.float_layers:
            flags += f" --quantization.float-layers {layers}"
        return f"{flags} ({points(self.comparison.judged, decimals=2)}, {self.bytes / 1e6:.1f} MB)"


def best_alternatives(
    classifier: TrainedModel, rows: Dataset, refused: ExportOptions, calibration: Callable[[ExportOptions], Dataset]
) -> str:
    """Measure other formats, the smallest first, until two lose little enough; return the two best ones as text.

    Args:
        rows: labeled canonical rows, which refused the format.
        refused: what lost too much.
        calibration: returns the calibration rows of other options.
    """
    measured: list[Alternative] = []
    with Progress("measure other formats", quiet=True):
        for options in _candidates(refused):
            try:
                more = calibration(options) if needs_rows(options) else rows
                measured.append(_measured(classifier, rows, options, more))
            except InputError:  # no rows are left for calibration, or ONNX Runtime cannot write it
                continue
            if sum(each.comparison.points_lost <= refused.max_loss for each in measured) == MOST:
                break
    # Those within the limit as they are, by size; then those that lose the least.
    numbers = [each for each in measured if not math.isnan(each.comparison.points_lost)]
    best = sorted(numbers, key=lambda each: max(each.comparison.points_lost, refused.max_loss))[:MOST]
    exact = "float32" if "float32" in format_of(refused).numbers else "the model itself"
    closest = f"the closest of the others: {' and '.join(map(str, best))}" if best else "no other could be measured"
    return f"{closest}; {exact} loses nothing"


def _candidates(refused: ExportOptions) -> Iterator[ExportOptions]:
    """Yield other formats, the smallest files first."""
    numbers = format_of(refused).numbers
    plain = replace(refused, quantization=QuantizationOptions(rows=refused.quantization.rows))
    some_float = replace(plain.quantization, float_layers=FLOAT_LAYERS)
    for options in (
        replace(plain, weights="int8"),
        replace(plain, weights="int8-static"),
        replace(plain, weights="int8", quantization=some_float),
        replace(plain, weights="int8-weights"),
        replace(plain, weights="float16"),
    ):
        if options != refused and options.weights in numbers:
            yield options


def _measured(classifier: TrainedModel, rows: Dataset, options: ExportOptions, calibration: Dataset) -> Alternative:
    with tempfile.TemporaryDirectory(prefix="hf_finetune_alternative_") as name:
        folder = Path(name)
        document, comparison = compared_export(classifier, rows, folder, options, calibration)
        return Alternative(options, comparison, document["bytes"][options.format])
