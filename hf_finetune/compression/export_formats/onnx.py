"""ONNX: a graph for ONNX Runtime, and for browsers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from hf_finetune.compression.config import ExportOptions
from hf_finetune.compression.export_formats.base import ExportFormat
from hf_finetune.compression.quantization.quantize import quantize
from hf_finetune.compression.tracing import tracing
from hf_finetune.errors import InputError
from hf_finetune.tasks.trained_model import TrainedModel
from hf_finetune.utils.artifacts import GRAPH_FILE
from hf_finetune.utils.messages import install_command

OPSET = 20
"""Of the current ONNX Runtime and of transformers.js."""


class Onnx(ExportFormat):
    """A graph of one file."""

    name = "onnx"
    numbers = ("float32", "float16", "int8", "int8-static", "int8-weights", "int4-weights")
    files = (GRAPH_FILE,)
    packages = ("torch", "transformers", "onnx", "onnxruntime")
    extras = ("onnx",)

    def write(
        self, classifier: TrainedModel, rows: Dataset, folder: Path, options: ExportOptions
    ) -> dict[str, Any] | None:
        """See `ExportFormat.write`."""
        if options.weights == "float32":
            write_graph(classifier, rows, folder / GRAPH_FILE)
            return None
        with tempfile.TemporaryDirectory(dir=folder) as name:
            whole = Path(name) / GRAPH_FILE
            write_graph(classifier, rows, whole)
            return quantize(classifier, whole, folder / GRAPH_FILE, options, rows)


def write_graph(classifier: TrainedModel, rows: Dataset, path: Path) -> None:
    """Write the graph of a classifier in float32, with any number of rows and tokens.

    Args:
        rows: canonical rows; it is traced with the first two.

    Raises:
        InputError: the packages of the extra `onnx` are missing, or the exporter cannot trace the model.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"export: it needs the package {error.name}; {install_command('onnx')}") from None
    with tracing(classifier, rows) as traced:
        program = torch.onnx.export(
            traced.network,
            (),
            kwargs={"inputs": traced.example},
            dynamic_shapes={"inputs": traced.dynamic},
            input_names=list(traced.example),
            output_names=["logits"],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None, "it is None without dynamo alone"
    program.save(str(path), external_data=False)
