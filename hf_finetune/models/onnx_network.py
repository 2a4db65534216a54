"""A network whose ONNX graph ONNX Runtime computes, in the place of a module of torch.

Legend: B rows, T tokens, W words of the batch, C classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_finetune.errors import InputError
from hf_finetune.utils.artifacts import EXPORT_FILE, GRAPH_FILE
from hf_finetune.utils.messages import one_line

if TYPE_CHECKING:
    import onnxruntime

INSTALL = "pip install 'hf_finetune[onnx]'"
SLOW_FUSIONS = "SkipLayerNormFusion"
"""Fusion of ONNX Runtime that costs time: in 1.32, its kernel for the sum of a residual connection and the layer norm
after it takes several times as long as the two by themselves, which is a quarter of the time of an int8 MiniLM."""


class OnnxNetwork(nn.Module):
    """A classifier of a file model.onnx. It computes in the number formats of the file, on the CPU.

    Args:
        path: of the file.
        threads: of an operation. None: as many as torch has.

    Raises:
        InputError: ONNX Runtime is not installed, or cannot read the file.
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        super().__init__()
        # What computes logits asks a network for the device and the format of its first weight.
        self.format = nn.Parameter(torch.zeros(()), requires_grad=False)
        self.session = open_session(path, threads or torch.get_num_threads())
        self.names = tuple(each.name for each in self.session.get_inputs())

    def forward(self, *, word_places: torch.Tensor | None = None, **inputs: torch.Tensor) -> SequenceClassifierOutput:
        """Return the logits (B, C); of words (W, C)."""
        if "attention_mask" in self.names and "attention_mask" not in inputs:
            # Left out where a batch has no padding.
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        found = self.session.run(None, {name: inputs[name].cpu().numpy() for name in self.names})[0]
        logits = torch.from_numpy(found)
        return SequenceClassifierOutput(
            logits=logits if word_places is None else logits.flatten(0, 1)[word_places.cpu()]
        )


def open_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """Return a graph that is ready to run, see `OnnxNetwork`."""
    try:
        import onnxruntime
    except ImportError:
        raise InputError(f"{path}: it needs ONNX Runtime, which is not installed; {INSTALL}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("optimization.disable_specified_optimizers", SLOW_FUSIONS)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # each of its classes is derived from Exception
        raise InputError(f"{path}: ONNX Runtime cannot read it ({one_line(error)}); export it again") from None


def is_exported(folder: Path) -> bool:
    """Return whether a folder holds an exported classifier."""
    return (folder / GRAPH_FILE).is_file() and (folder / EXPORT_FILE).is_file()
