"""safetensors: weights that plain transformers loads, in half the size."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from datasets import Dataset
from transformers import PreTrainedModel

from hf_finetune.compression.config import ExportOptions
from hf_finetune.compression.export_formats.base import ExportFormat
from hf_finetune.compression.pruning.networks import why_not_stock
from hf_finetune.compression.tracing import in_dtype
from hf_finetune.errors import InputError
from hf_finetune.models.heads.custom import CustomHeadClassifier
from hf_finetune.tasks.trained_model import TrainedModel


class Safetensors(ExportFormat):
    """A folder of transformers. In float32 that is model/ of the run itself."""

    name = "safetensors"
    numbers = ("bfloat16",)
    files = ("model.safetensors",)
    packages = ("torch", "transformers")

    def write(self, classifier: TrainedModel, rows: Dataset, folder: Path, options: ExportOptions) -> None:
        """See `ExportFormat.write`."""
        network = in_dtype(classifier.model, torch.bfloat16)
        if isinstance(network, CustomHeadClassifier):
            why: str | None = network.why_not_standalone
        else:
            why = why_not_stock(network)
        if why is not None:
            raise InputError(f"{classifier.name}: {why}; expected --format onnx, openvino or torch")
        cast(PreTrainedModel, network).save_pretrained(folder, max_shard_size="1TB")
