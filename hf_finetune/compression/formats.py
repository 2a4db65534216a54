"""The formats in which `compress` stores a network: safetensors, and ONNX in a number format."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from transformers import PreTrainedModel

from hf_finetune.compression.config import ExportOptions, Numbers, QuantizationOptions
from hf_finetune.compression.export import check_exportable, write_export
from hf_finetune.compression.pruning.networks import why_not_stock
from hf_finetune.compression.steps import Format, StepRows
from hf_finetune.errors import InputError
from hf_finetune.pipeline.save import save_network
from hf_finetune.tasks.trained_model import TrainedModel
from hf_finetune.utils.config import OpenFraction, configclass


@configclass
class Safetensors(Format):
    """Weights in float32, which plain transformers loads."""

    name = "float32"
    lossy = False
    part = "model"

    def refusal(self, classifier: TrainedModel) -> str | None:
        """Refuse adapters that are not merged."""
        is_adapter = any(name.startswith("adapter/") for name in classifier.files)
        return "its adapter cannot be merged" if is_adapter else None

    def write(self, classifier: TrainedModel, rows: StepRows, folder: Path) -> None:
        """Write model/, or encoder/ and head.safetensors."""
        if (why := why_not_stock(classifier.model)) is not None:
            raise InputError(f"only a graph stores it: {why}")
        network = cast(PreTrainedModel, classifier.model)
        task = classifier.task.hub_task(classifier.kind)
        save_network(network, classifier.inputs, folder, task, half_embeddings=True)


@configclass
class Onnx(Format):
    """A graph for ONNX Runtime, whose matrix products have a number format of `export --weights`."""

    weights: Numbers = "float32"
    smooth: OpenFraction | None = None
    """See `QuantizationOptions.smooth`."""

    part = "onnx"

    @property
    def name(self) -> str:
        """`onnx-int8`, as `export` names its folder."""
        return ExportOptions(weights=self.weights).folder + ("" if self.smooth is None else "-smooth")

    @property
    def lossy(self) -> bool:
        """Whether weights are rounded."""
        return self.weights != "float32"

    def refusal(self, classifier: TrainedModel) -> str | None:
        """Refuse what has no graph of its own."""
        try:
            check_exportable(classifier)
        except InputError as error:
            return str(error).removeprefix(f"{classifier.name}: ")
        return None

    def write(self, classifier: TrainedModel, rows: StepRows, folder: Path) -> None:
        """Write what `hf-finetune export` does with these options."""
        options = ExportOptions(weights=self.weights, quantization=QuantizationOptions(smooth=self.smooth))
        write_export(classifier, rows.calibration, folder, options)
