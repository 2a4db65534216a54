"""What `export` writes, and the number formats that it knows."""

from __future__ import annotations

from typing import Literal

from hf_finetune.utils.config import Count, CountOrZero, OpenFraction, Positive, configclass

ExportFormatName = Literal["onnx", "openvino", "torch", "safetensors", "sentence-transformers"]
Numbers = Literal["float32", "float16", "bfloat16", "int8", "int8-static", "int8-weights", "int4-weights"]
Calibration = Literal["min-max", "percentile", "entropy"]


@configclass
class QuantizationOptions:
    """How the matrix products are rounded."""

    calibration: Calibration = "min-max"
    """Range of each activation of int8-static: of all values, of 99.99% of them, or the one that keeps most of their
    distribution."""
    smooth: OpenFraction | None = None
    """SmoothQuant of int8 and int8-static: how much of the spread of the inputs' channels moves to the weights; 0.5 is
    usual. Default: none."""
    float_layers: CountOrZero = 0
    """Linear layers that stay in float32: those that change the logits most if they alone are rounded, measured by
    a sweep over all."""
    rows: Count = 128
    """Rows that int8-static, `smooth` and the sweep of `float_layers` read, at most, none of which judges the result:
    training rows of the run, or those of --data that are left."""


QUANTIZATION_OPTIONS = QuantizationOptions()


@configclass
class ExportOptions:
    """What is exported, and by which rows it is compared with the model."""

    format: ExportFormatName = "onnx"
    """What computes it. onnx: ONNX Runtime, and browsers; openvino: OpenVINO; torch: torch alone, by torch.export;
    safetensors: plain transformers, with --weights bfloat16; sentence-transformers: the encoder of texts alone, for
    search."""
    weights: Numbers = "float32"
    """Number format of the matrix products. int8: weights by channel, activations scaled by batch; int8-static:
    activations with a fixed scale; int8-weights, int4-weights: weights in blocks of 32, activations in float32;
    float16, bfloat16: weights and activations; in openvino float16 is that of the weights alone. onnx has all but
    bfloat16; openvino float32, float16, bfloat16 and int8-static; torch float32 and bfloat16; safetensors bfloat16;
    sentence-transformers float32. What they lose on labeled rows is measured and limited by --max-loss."""
    rows: Count | None = None
    """Rows on which the exported model is compared with the model, at most, drawn at random. None: 512 in float32, and
    4,000 in another format, as the loss on 512 rows is uncertain by more than `max_loss`."""
    max_loss: Positive = 0.5
    """Largest loss of another format than float32, in points of the metric that judges the task; of R² and kappa in
    hundredths, 0.5 is 0.005. An exported model that loses more on labeled rows is refused."""
    latency: bool = True
    """Measure the latency of both on rows of the data: batches of one row and of 32."""
    docker: bool = False
    """Also write a Dockerfile, by which an image serves the exported model over HTTP: with --format onnx, openvino or
    safetensors."""
    quantization: QuantizationOptions = QUANTIZATION_OPTIONS

    @property
    def folder(self) -> str:
        """Name of the folder, in that of the run."""
        return self.format if self.weights == "float32" else f"{self.format}-{self.weights}"

    @property
    def is_quantized(self) -> bool:
        """Whether the graph is rewritten layer by layer, so that some of them can stay in float32."""
        return self.weights.startswith("int") or (self.format, self.weights) == ("onnx", "float16")

    @property
    def most_rows(self) -> int:
        """Rows that are compared, at most."""
        return self.rows or (512 if self.weights == "float32" else 4000)


EXPORT_OPTIONS = ExportOptions()
