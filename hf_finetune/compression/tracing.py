"""What the exporters of torch trace of a classifier.

Legend: B rows, T tokens, C classes.
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
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
from hf_finetune.evaluation.logits import evaluating
from hf_finetune.models.peft.adapters import merge, mergeable
from hf_finetune.tasks.trained_model import TrainedModel
from hf_finetune.utils.messages import one_line, silenced


@dataclass(frozen=True)
class Traced:
    """What the exporters of torch trace: they call `network(inputs=example)`."""

    network: nn.Module
    """In evaluation mode, with merged adapters, on the CPU. Its output is the tensor of logits."""
    example: dict[str, torch.Tensor]
    dynamic: dict[str, dict[int, Any]]
    """The axes of each input that may have any size: rows and tokens."""


class LogitsAlone(nn.Module):
    """A classifier whose output is the tensor of logits, in float32 whatever it computes in."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the logits (B, C); of tokens (B, T, C)."""
        dtype = next(self.network.parameters()).dtype
        cast = {name: each.to(dtype) if each.is_floating_point() else each for name, each in inputs.items()}
        return self.network(**cast).logits.float()


@contextmanager
def tracing(classifier: TrainedModel, rows: Dataset, dtype: torch.dtype = torch.float32) -> Iterator[Traced]:
    """Yield what is traced of a classifier; what the block raises is that it cannot be.

    Args:
        rows: canonical rows; it is traced with the first two.
        dtype: of its weights and activations.

    Raises:
        InputError: torch, onnxscript or the model's own code raised something.
    """
    example = _example(classifier, rows)
    any_size = torch.export.Dim.DYNAMIC
    dynamic = {name: {0: any_size} if name == "pixel_values" else {0: any_size, 1: any_size} for name in example}
    network = LogitsAlone(in_dtype(classifier.model, dtype)).train(classifier.model.training)  # the restored mode
    try:
        with evaluating(network), torch.no_grad(), quiet_export():
            yield Traced(network, example, dynamic)
    except Exception as error:  # of any class
        raise InputError(
            f"{classifier.name}: torch cannot write its graph: {one_line(_root(error))}; use it through transformers"
        ) from None


def in_dtype(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a classifier with merged adapters, if they can be, and weights of this format; a copy if it changes.

    It is on the CPU: a program of torch.export computes where it was traced.
    """
    if isinstance(model, PeftModel) and mergeable(model):
        model = merge(model)
    is_plain = dtype == torch.float32 and next(model.parameters()).device.type == "cpu"
    return model if is_plain else copy.deepcopy(model).to("cpu", dtype)


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
