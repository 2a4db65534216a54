"""The ONNX graph of a classifier.

Legend: B rows, T tokens, C classes.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel
from torch import nn

from hf_finetune.data.inputs import Rows, TextInputs, columns_of, without_votes
from hf_finetune.data.long.chunk import CHUNKS
from hf_finetune.data.word_inputs import WORD_PLACES
from hf_finetune.errors import InputError
from hf_finetune.evaluation.logits import evaluating, to_device
from hf_finetune.models.onnx_network import INSTALL
from hf_finetune.models.peft.adapters import merge, mergeable
from hf_finetune.tasks.trained_model import TrainedModel
from hf_finetune.utils.messages import one_line, silenced

OPSET = 20
"""Of the current ONNX Runtime and of transformers.js."""


class LogitsAlone(nn.Module):
    """A classifier whose output is the tensor of logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the logits (B, C); of tokens (B, T, C)."""
        return self.network(**inputs).logits


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
        raise InputError(f"export: it needs the package {error.name}; {INSTALL}") from None
    example = to_device(_example(classifier, rows), next(classifier.model.parameters()).device)
    any_size = torch.export.Dim.DYNAMIC
    free = {name: {0: any_size} if name == "pixel_values" else {0: any_size, 1: any_size} for name in example}
    model = classifier.model
    if isinstance(model, PeftModel) and mergeable(model):
        model = merge(model)
    network = LogitsAlone(model).train(model.training)  # the mode that is restored
    try:
        with evaluating(network), torch.no_grad(), quiet_export():
            program = torch.onnx.export(
                network,
                (),
                kwargs={"inputs": example},
                dynamic_shapes={"inputs": free},
                input_names=list(example),
                output_names=["logits"],
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # whatever torch, onnxscript or the model's own code raise
        raise InputError(
            f"{classifier.name}: torch cannot write its graph: {one_line(_root(error))}; use it through transformers"
        ) from None
    assert program is not None, "it is None without dynamo alone"
    program.save(str(path), external_data=False)


def _root(error: Exception) -> Exception:
    """Return the first cause: the exporter's own message is advice to its developers."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def _example(classifier: TrainedModel, rows: Dataset) -> dict[str, Any]:
    """Return the tensors of two rows of several lengths, with an attention mask.

    The first row has several chunks where chunks are combined: torch takes a size of 1 for one that is fixed.
    """
    inputs = classifier.inputs
    encoded = inputs.encode_in_memory(rows.select(range(2)))
    columns = Rows(encoded, columns_of(inputs, labels=False)).__getitems__([0, 1])
    if isinstance(inputs, TextInputs) and inputs.long.shares == CHUNKS:
        copies = inputs.max_length // len(columns["input_ids"][0]) + 1
        columns = {name: [np.tile(first, copies), second] for name, (first, second) in columns.items()}
    return graph_inputs(without_votes(inputs.collate(columns)))


def graph_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the graph reads of a batch: always a mask, and no places of words."""
    read = {name: values for name, values in batch.items() if name != WORD_PLACES}
    if "input_ids" in read:
        read.setdefault("attention_mask", torch.ones_like(read["input_ids"]))
    return read


@contextmanager
def quiet_export() -> Iterator[None]:
    """Silence the exporters, which print their steps and warn of their own internals."""
    with warnings.catch_warnings(), silenced(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
