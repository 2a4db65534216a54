"""The format that options name."""

from __future__ import annotations

from hf_finetune.compression.config import ExportOptions
from hf_finetune.compression.export_formats.base import ExportFormat
from hf_finetune.compression.export_formats.onnx import Onnx
from hf_finetune.compression.export_formats.openvino import OpenVino
from hf_finetune.compression.export_formats.safetensors import Safetensors
from hf_finetune.compression.export_formats.sentence_transformers import SentenceEncoder
from hf_finetune.compression.export_formats.torch_program import TorchProgram


def format_of(options: ExportOptions) -> ExportFormat:
    """Return the format, which `ExportFormat.check` compares with the other options."""
    match options.format:
        case "onnx":
            return Onnx()
        case "openvino":
            return OpenVino()
        case "torch":
            return TorchProgram()
        case "safetensors":
            return Safetensors()
        case "sentence-transformers":
            return SentenceEncoder()
