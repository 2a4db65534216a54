"""What `export` writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hf_finetune.utils.config import Count, Positive

Numbers = Literal["float32", "int8"]
FOLDERS: dict[Numbers, str] = {"float32": "onnx", "int8": "onnx-int8"}
"""Folder in that of the run, by the format of the weights."""


@dataclass(frozen=True)
class ExportOptions:
    """What is exported, and by which rows it is compared with the model."""

    weights: Numbers = "float32"
    """Number format of the matrix products. int8: dynamic quantization, weights by channel, activations by batch; what
    it loses on labeled rows is measured and limited by --max-loss."""
    rows: Count = 512
    """Rows on which the exported model is compared with the model, at most, drawn at random."""
    max_loss: Positive = 0.5
    """Largest loss of int8 in points of the metric that judges the task: the exported model is refused if the paired
    difference on labeled rows is below it."""
    latency: bool = True
    """Measure the latency of both on rows of the data: batches of one row and of 32."""


EXPORT_OPTIONS = ExportOptions()
