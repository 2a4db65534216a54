"""torch.export: a program for torch alone.

Legend: B rows, T tokens, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset

from hf_finetune.compression.config import ExportOptions
from hf_finetune.compression.export_formats.base import ExportFormat
from hf_finetune.compression.tracing import quiet_export, tracing
from hf_finetune.models.exported_network import ExportedNetwork
from hf_finetune.tasks.trained_model import TrainedModel

NAMES_FILE = "inputs.json"
"""In the archive: the names of the inputs."""


class TorchProgram(ExportFormat):
    """A program in the archive of torch.export, for any number of rows and tokens.

    It is code, so that no command of this package loads one.
    """

    name = "torch"
    numbers = ("float32", "bfloat16")
    files = ("model.pt2",)
    packages = ("torch", "transformers")
    is_served = False

    def write(self, classifier: TrainedModel, rows: Dataset, folder: Path, options: ExportOptions) -> None:
        """See `ExportFormat.write`."""
        dtype = torch.bfloat16 if options.weights == "bfloat16" else torch.float32
        with tracing(classifier, rows, dtype) as traced:
            program = torch.export.export(
                traced.network, (), {"inputs": traced.example}, dynamic_shapes={"inputs": traced.dynamic}
            )
            names = {NAMES_FILE: json.dumps([*traced.example])}
            torch.export.save(program, folder / self.files[0], extra_files=names)

    def load(self, classifier: TrainedModel, folder: Path) -> TrainedModel:
        """See `ExportFormat.load`."""
        return replace(classifier, model=ProgramNetwork(folder / self.files[0]))


class ProgramNetwork(ExportedNetwork):
    """A program that was just written.

    Args:
        path: model.pt2.
    """

    def __init__(self, path: Path) -> None:
        names = {NAMES_FILE: ""}
        with quiet_export():
            program = torch.export.load(path, extra_files=names).module()
        super().__init__(tuple(json.loads(names[NAMES_FILE])))
        self.program = program

    def train(self, mode: bool = True) -> ProgramNetwork:
        """Do nothing: a program has the mode in which it was traced, and refuses another one."""
        return self

    def compute(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """See `ExportedNetwork.compute`."""
        with torch.inference_mode():
            # In the order of tracing.
            return self.program(inputs={name: torch.from_numpy(columns[name]) for name in self.names}).numpy()
