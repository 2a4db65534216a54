"""Quantize the graph of a classifier: which method, what stays in float32, and by which rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from hf_finetune.compression.calibration import Batch, calibration_batches
from hf_finetune.compression.config import ExportOptions
from hf_finetune.compression.quantization.graph_edits import (
    name_products,
    products,
    round_embeddings,
    smooth,
    split_residual_sums,
)
from hf_finetune.compression.quantization.linear_layers import after_the_encoder, largest_inputs
from hf_finetune.compression.quantization.methods import DynamicInt8, Float16, Quantization, StaticInt8, WeightOnly
from hf_finetune.compression.quantization.sensitivity import sensitivities
from hf_finetune.compression.tracing import graph_inputs, quiet_export
from hf_finetune.errors import InputError
from hf_finetune.tasks.trained_model import TrainedModel
from hf_finetune.utils.messages import one_line


def check_quantization(options: ExportOptions) -> None:
    """Refuse options of quantization that do not apply to the number format.

    Raises:
        InputError: naming the option.
    """
    weights, chosen = options.weights, options.quantization
    rounds_inputs = weights in ("int8", "int8-static")
    for field, is_set, applies, expected in (
        ("smooth", chosen.smooth is not None, rounds_inputs, "int8 or int8-static"),
        ("calibration", chosen.calibration != "min-max", weights == "int8-static", "int8-static"),
        ("float-layers", chosen.float_layers > 0, options.is_quantized, "int8, int4 or float16 of onnx"),
    ):
        if is_set and not applies:
            raise InputError(f"--quantization.{field}: expected --weights {expected}, got {weights}")


def needs_rows(options: ExportOptions) -> bool:
    """Return whether calibration rows determine something."""
    chosen = options.quantization
    return options.weights == "int8-static" or chosen.smooth is not None or chosen.float_layers > 0


def quantize(
    classifier: TrainedModel, source: Path, target: Path, options: ExportOptions, rows: Dataset
) -> dict[str, Any]:
    """Write the graph of a classifier in the number format of the options.

    Args:
        source: its graph in float32, in a folder for temporary files.
        rows: calibration rows.

    Returns:
        What export.json says of it: `method`; with layers in float32 `sensitivity`, the relative change of the logits
        by each layer, and `float_layers`.

    Raises:
        InputError: ONNX Runtime's quantization fails.
    """
    method, chosen = _method(options), options.quantization
    report: dict[str, Any] = {"method": repr(method)}
    batches = calibration_batches(classifier, rows) if needs_rows(options) else []
    if batches:
        report |= {"calibration_rows": len(rows), "smooth": chosen.smooth}
    prepared = source.with_name("prepared.onnx")
    try:
        with quiet_export():
            after = after_the_encoder(classifier.model)
            names = _prepare(classifier, source, prepared, batches, options)
            if chosen.float_layers:
                found = sensitivities(classifier.model, batches)
                report["sensitivity"] = {
                    name: round(value, 4) for name, value in found.items() if name in names - after
                }
                report["float_layers"] = [*report["sensitivity"]][: chosen.float_layers]
            exclude = {*report.get("float_layers", ()), *after}
            method(prepared, target, [*map(graph_inputs, batches)], sorted(exclude & names))
    except Exception as error:  # of many classes
        raise InputError(f"{classifier.name}: ONNX Runtime cannot quantize it: {one_line(error)}") from None
    return report


def _method(options: ExportOptions) -> Quantization:
    match options.weights:
        case "int8":
            return DynamicInt8()
        case "int8-static":
            return StaticInt8(options.quantization.calibration)
        case "int8-weights":
            return WeightOnly(8)
        case "int4-weights":
            return WeightOnly(4)
        case "float16":
            return Float16()
    raise AssertionError(f"{options.weights} is not quantized")


def _prepare(
    classifier: TrainedModel, source: Path, target: Path, batches: Sequence[Batch], options: ExportOptions
) -> set[str]:
    """Write the graph that is quantized, and return the names of its matrix products."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(str(source), str(target), skip_symbolic_shape=True)
    model = onnx.load(target)
    name_products(model.graph, classifier.model)
    split_residual_sums(model.graph)
    if options.weights != "float16":
        round_embeddings(model.graph)
    if options.quantization.smooth is not None:
        smooth(model.graph, largest_inputs(classifier.model, batches), options.quantization.smooth)
    del model.graph.value_info[:]  # those of before; what is quantized is found by its inferred type
    onnx.save(onnx.shape_inference.infer_shapes(model), target)
    return {node.name for node, _ in products(model.graph)}
