"""Methods of quantization: each writes a graph in float32 in other number formats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from hf_finetune.compression.config import Calibration

if TYPE_CHECKING:
    from hf_finetune.compression.calibration import Batch

CALIBRATIONS: dict[Calibration, Literal["MinMax", "Percentile", "Entropy"]] = {
    "min-max": "MinMax",
    "percentile": "Percentile",
    "entropy": "Entropy",
}
"""Names of ONNX Runtime."""
PERCENTILE = 99.99
"""Share of values within the range of the method `percentile`."""
BLOCK = 32
"""Weights with a scale of their own, where weights alone are rounded."""


@dataclass(frozen=True)
class DynamicInt8:
    """Weights by channel, activations with the scale of their batch."""

    def __call__(self, source: Path, target: Path, batches: Sequence[Batch], exclude: Sequence[str]) -> None:
        """Write `target`.

        Args:
            batches: calibration rows as the graph reads them; this method needs none.
            exclude: names of the products that stay in float32.
        """
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["Conv", "LSTM", "MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[*exclude],
        )


@dataclass(frozen=True)
class StaticInt8:
    """Weights by channel, activations with a fixed scale, which calibration rows determine."""

    calibration: Calibration = "min-max"

    def __call__(self, source: Path, target: Path, batches: Sequence[Batch], exclude: Sequence[str]) -> None:
        """Write `target`, see `DynamicInt8`."""
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

        # Histograms are made of tensors of one shape: of the batch in the middle, as long as half of the rows.
        chosen = batches if self.calibration == "min-max" else [batches[len(batches) // 2]]
        options: dict[str, Any] = {
            "MatMulConstBOnly": True,
            # What a product returns is not rounded: layer norms, GELU and softmax compute in float32 in any case.
            "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"],
        }
        if self.calibration == "percentile":
            options["CalibPercentile"] = PERCENTILE
        quantize_static(
            source,
            target,
            _reader(chosen),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[*exclude],
            calibrate_method=CalibrationMethod[CALIBRATIONS[self.calibration]],
            extra_options=options,
        )


@dataclass(frozen=True)
class WeightOnly:
    """Weights in blocks of 32 with a scale each, activations in float32."""

    bits: Literal[4, 8]

    def __call__(self, source: Path, target: Path, batches: Sequence[Batch], exclude: Sequence[str]) -> None:
        """Write `target`, see `DynamicInt8`."""
        import onnx
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        quantizer = MatMulNBitsQuantizer(
            onnx.load(source), bits=self.bits, block_size=BLOCK, is_symmetric=True, nodes_to_exclude=[*exclude]
        )
        quantizer.process()
        quantizer.model.save_model_to_file(str(target))


@dataclass(frozen=True)
class Float16:
    """Weights and activations in float16, inputs and logits as before."""

    def __call__(self, source: Path, target: Path, batches: Sequence[Batch], exclude: Sequence[str]) -> None:
        """Write `target`, see `DynamicInt8`."""
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16

        half = convert_float_to_float16(onnx.load(source), keep_io_types=True, node_block_list=[*exclude])
        onnx.save(half, target)


Quantization: TypeAlias = DynamicInt8 | StaticInt8 | WeightOnly | Float16


def _reader(batches: Sequence[Batch]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[Batch] = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {name: values.numpy() for name, values in batch.items()}

    return Reader()
