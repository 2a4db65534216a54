"""OpenVINO: a graph for CPUs, GPUs and NPUs of Intel."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset

from hf_finetune.compression.config import ExportOptions
from hf_finetune.compression.export_formats.base import ExportFormat
from hf_finetune.compression.export_formats.onnx import Onnx
from hf_finetune.errors import InputError
from hf_finetune.tasks.trained_model import TrainedModel
from hf_finetune.utils.artifacts import GRAPH_FILE, GRAPHS
from hf_finetune.utils.messages import install_command


class OpenVino(ExportFormat):
    """The ONNX graph, as OpenVINO reads it. With 16 bits its weights are stored in float16."""

    name = "openvino"
    numbers = ("float32", "float16", "bfloat16", "int8-static")
    files = GRAPHS["openvino"]
    packages = ("torch", "transformers", "onnx", "openvino")
    extras = ("openvino",)

    def write(
        self, classifier: TrainedModel, rows: Dataset, folder: Path, options: ExportOptions
    ) -> dict[str, Any] | None:
        """See `ExportFormat.write`."""
        try:
            import openvino
        except ImportError:
            raise InputError(f"export: it needs the package openvino; {install_command('openvino')}") from None
        is_int8 = options.weights == "int8-static"
        with tempfile.TemporaryDirectory(dir=folder) as name:
            graph = replace(options, format="onnx", weights=options.weights if is_int8 else "float32")
            report = Onnx().write(classifier, rows, Path(name), graph)
            model = openvino.Core().read_model(Path(name) / GRAPH_FILE)
            halved = options.weights in ("float16", "bfloat16")
            openvino.save_model(model, folder / self.files[0], compress_to_fp16=halved)
        return report
