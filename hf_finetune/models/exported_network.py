"""A network whose graph ONNX Runtime or OpenVINO computes, in the place of a module of torch.

Legend: B rows, T tokens, W words of the batch, C classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_finetune.errors import InputError
from hf_finetune.utils.artifacts import Runtime
from hf_finetune.utils.messages import install_command, one_line

if TYPE_CHECKING:
    import onnxruntime
    import openvino

SLOW_FUSIONS = "SkipLayerNormFusion"
"""Fusion of ONNX Runtime that costs time: in 1.32, its kernel for the sum of a residual connection and the layer norm
after it takes several times as long as the two by themselves, which is a quarter of the time of an int8 MiniLM."""


class ExportedNetwork(nn.Module, ABC):
    """A classifier of a graph. It computes in the number formats of its file, on the CPU.

    Args:
        names: of the graph's inputs.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        # What computes logits asks a network for the device and the format of its first weight.
        self.format = nn.Parameter(torch.zeros(()), requires_grad=False)
        self.names = names

    def forward(self, *, word_places: torch.Tensor | None = None, **inputs: torch.Tensor) -> SequenceClassifierOutput:
        """Return the logits (B, C); of words (W, C)."""
        if "attention_mask" in self.names and "attention_mask" not in inputs:
            # Left out where a batch has no padding.
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        logits = torch.from_numpy(self.compute({name: inputs[name].cpu().numpy() for name in self.names}))
        return SequenceClassifierOutput(
            logits=logits if word_places is None else logits.flatten(0, 1)[word_places.cpu()]
        )

    @abstractmethod
    def compute(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the output of the graph: (B, C), or (B, T, C)."""


class OnnxNetwork(ExportedNetwork):
    """A graph for ONNX Runtime.

    Args:
        path: model.onnx.
        threads: of an operation. None: as many as torch has.

    Raises:
        InputError: ONNX Runtime is not installed, or cannot read the file.
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        session = open_session(path, threads or torch.get_num_threads())
        super().__init__(tuple(each.name for each in session.get_inputs()))
        self.session = session

    def compute(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """See `ExportedNetwork.compute`."""
        return self.session.run(None, dict(columns))[0]


class OpenVinoNetwork(ExportedNetwork):
    """A graph for OpenVINO.

    Args:
        path: model.xml, with model.bin beside it.
        bfloat16: whether matrix products are computed in it, if the CPU can. OpenVINO does so by itself.

    Raises:
        InputError: OpenVINO is not installed, or cannot read the files.
    """

    def __init__(self, path: Path, *, bfloat16: bool) -> None:
        compiled = compile_openvino(path, torch.get_num_threads(), bfloat16=bfloat16)
        super().__init__(tuple(each.get_any_name() for each in compiled.inputs))
        self.compiled = compiled

    def compute(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """See `ExportedNetwork.compute`."""
        # A request of its own: one of the model is refused while another thread computes.
        return self.compiled.create_infer_request().infer(dict(columns))[0]


def open_exported(runtime: Runtime, path: Path, *, bfloat16: bool) -> ExportedNetwork:
    """Return the network of a graph, see `OnnxNetwork` and `OpenVinoNetwork`."""
    return OnnxNetwork(path) if runtime == "onnx" else OpenVinoNetwork(path, bfloat16=bfloat16)


def open_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """Return a graph that is ready to run, see `OnnxNetwork`."""
    try:
        import onnxruntime
    except ImportError:
        command = install_command("onnx")
        raise InputError(f"{path}: it needs ONNX Runtime, which is not installed; {command}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("optimization.disable_specified_optimizers", SLOW_FUSIONS)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # each of its classes is derived from Exception
        raise InputError(f"{path}: ONNX Runtime cannot read it ({one_line(error)}); export it again") from None


def compile_openvino(path: Path, threads: int, *, bfloat16: bool) -> openvino.CompiledModel:
    """Return a graph that is ready to run, see `OpenVinoNetwork`."""
    try:
        import openvino
    except ImportError:
        command = install_command("openvino")
        raise InputError(f"{path}: it needs OpenVINO, which is not installed; {command}") from None
    settings = {"INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32", "INFERENCE_NUM_THREADS": threads}
    try:
        return openvino.Core().compile_model(str(path), "CPU", settings)
    except RuntimeError as error:
        raise InputError(f"{path}: OpenVINO cannot read it ({one_line(error)}); export it again") from None
