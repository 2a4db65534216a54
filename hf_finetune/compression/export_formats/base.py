"""What `export` writes: the base class of its formats.

`compress` stores its candidates in formats of its own, see `compression.steps.Format`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset

from hf_finetune.compression import examples
from hf_finetune.compression.config import ExportFormatName, ExportOptions, Numbers
from hf_finetune.compression.gate import Comparison, compare_exported, refuse
from hf_finetune.compression.latency import latency
from hf_finetune.errors import InputError
from hf_finetune.tasks.trained_model import TrainedModel, load_trained
from hf_finetune.utils.messages import listed

EXAMPLES = Path(examples.__file__).parent


class ExportFormat(ABC):
    """How an exported classifier is stored, and what computes it."""

    name: ClassVar[ExportFormatName]
    numbers: ClassVar[tuple[Numbers, ...]]
    """Number formats of the matrix products."""
    files: ClassVar[tuple[str, ...]]
    """Files of the network, the one to open first."""
    packages: ClassVar[tuple[str, ...]]
    """Packages whose versions are recorded."""
    extras: ClassVar[tuple[str, ...]] = ()
    """Extras of this package that compute it. `serve` does."""
    is_served: ClassVar[bool] = True
    """Whether `load_trained` reads the folder, so that `predict` and `serve` do."""

    def check(self, options: ExportOptions) -> None:
        """Refuse what does not go together.

        Raises:
            InputError: saying what does.
        """
        if options.weights not in self.numbers:
            numbers = listed(self.numbers, len(self.numbers))
            raise InputError(f"--weights {options.weights}: expected {numbers} with --format {self.name}")
        if options.docker and not self.is_served:
            raise InputError(f"--docker: expected --format onnx, openvino or safetensors with it, got {self.name}")

    @abstractmethod
    def write(
        self, classifier: TrainedModel, rows: Dataset, folder: Path, options: ExportOptions
    ) -> dict[str, Any] | None:
        """Write `files` to the folder, which has those of the config and of the tokenizer or image processor.

        Args:
            rows: canonical ones, two at least, with which the graph is traced, and which calibrate quantization.

        Returns:
            How it was quantized. None: not at all.

        Raises:
            InputError: a package is missing, or a library cannot write this network.
        """

    def program(self, classifier: TrainedModel) -> str:
        """Return example.py."""
        return program_of(classifier.kind, self.name)

    def verify(self, classifier: TrainedModel, folder: Path, rows: Dataset, options: ExportOptions) -> dict[str, Any]:
        """Compare what was written with the classifier, on canonical rows, and measure both.

        Returns:
            For export.json: `gate`, and with `options.latency` also `latency`.

        Raises:
            GateError: it does not compute what the classifier does.
            LossError: it loses too much.
        """
        exported, found = self.compare(classifier, folder, rows, options)
        refuse(found, options)
        measured: dict[str, Any] = {"gate": found.to_dict()}
        if options.latency:
            measured["latency"] = {"model": latency(classifier, rows), self.name: latency(exported, rows)}
        return measured

    def compare(
        self, classifier: TrainedModel, folder: Path, rows: Dataset, options: ExportOptions
    ) -> tuple[TrainedModel, Comparison]:
        """Return the exported classifier, and how it compares."""
        exported = self.load(classifier, folder)
        return exported, compare_exported(classifier, exported, folder, rows, lossy=options.weights != "float32")

    def load(self, classifier: TrainedModel, folder: Path) -> TrainedModel:
        """Return the exported classifier, to compare it with the one that it is of."""
        return load_trained(str(folder), limits=classifier.limits)


def program_of(kind: str, format: str) -> str:
    """Return the program of texts or of images, with that of a format in the place of its import."""
    program, network = ((EXAMPLES / f"{name}.py").read_text(encoding="utf-8") for name in (f"{kind}s", format))
    names = "FOLDER, NAMES, SETTINGS, compute" if kind == "text" else "FOLDER, SETTINGS, compute"
    line = f"from hf_finetune.compression.examples.onnx import {names}\n"
    assert line in program
    repeated = {each for each in network.splitlines() if each.startswith(("import ", "from ")) and each in program}
    return program.replace(line, "\n".join(each for each in network.splitlines() if each not in repeated) + "\n\n")
