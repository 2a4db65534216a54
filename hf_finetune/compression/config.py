"""What `export` and `compress` write."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from hf_finetune.utils.config import Count, Duration, Positive, configclass
from hf_finetune.utils.config_errors import Check

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
    docker: bool = False
    """Also write a Dockerfile, by which an image serves the exported model over HTTP."""


EXPORT_OPTIONS = ExportOptions()


def is_milliseconds(text: str) -> bool:
    """Return whether `milliseconds` reads the text."""
    return re.fullmatch(r"\d+(\.\d+)?ms", text) is not None and float(text[:-2]) > 0


Milliseconds = Annotated[str, Check(is_milliseconds, "a time such as 5ms")]


@configclass
class CompressOptions:
    """What a compressed classifier may lose, and what it has to reach."""

    latency: Milliseconds | None = None
    """Most milliseconds of a row alone, the forward pass, at the 95th percentile: 5ms. Default: no limit."""
    max_loss: Positive = 0.5
    """Largest loss in points of the metric that judges the task, on the rows that choose."""
    target: Literal["cpu"] = "cpu"
    """Where it will run. The latency is measured on this machine."""
    budget: Duration | None = None
    """Most time for all candidates: 10m. What there is no time for is left out, and named. Default: no limit."""
    rows: Count = 4000
    """Validation rows that choose, and test rows of the final number, at most."""

    steps: str | None = None
    """Steps to apply one after the other, in place of trying several chains: `vocabulary,feed-forward=0.3,distill`.
    Others are heads, layers=2, hidden-width=0.25 and zero-weights. The number is the share that is removed; or that of
    layers, of epochs, or of unused tokens that remain."""

    @property
    def latency_ms(self) -> float | None:
        """`latency` as a number."""
        return None if self.latency is None else float(self.latency[:-2])


COMPRESS_OPTIONS = CompressOptions()
