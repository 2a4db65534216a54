"""Export a trained classifier: its graph, tokenizer or image processor, labels and an example, verified on its data."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import EsmTokenizer

from hf_finetune.compression.config import EXPORT_OPTIONS, ExportOptions
from hf_finetune.compression.docker import write_dockerfile
from hf_finetune.compression.export_formats.base import ExportFormat
from hf_finetune.compression.export_formats.choose import format_of
from hf_finetune.compression.gate import Comparison
from hf_finetune.compression.letter_tokenizer import letter_tokenizer
from hf_finetune.compression.quantization.quantize import check_quantization
from hf_finetune.data.inputs import TextInputs
from hf_finetune.data.word_inputs import WordInputs
from hf_finetune.errors import InputError
from hf_finetune.evaluation.differences import points
from hf_finetune.models.exported_network import ExportedNetwork
from hf_finetune.models.peft.adapters import CONFIG_FILE as ADAPTER_CONFIG
from hf_finetune.pipeline.parity import plain_settings
from hf_finetune.pipeline.run_folder import replacing
from hf_finetune.tasks.trained_model import TrainedModel, run_folder
from hf_finetune.training.precision import default_device, has_native_bf16
from hf_finetune.utils import hashing
from hf_finetune.utils.artifacts import EXAMPLE_FILE, EXPORT_FILE, HEAD_FILE
from hf_finetune.utils.console import Progress, table
from hf_finetune.utils.core_sharing import shared_cores
from hf_finetune.utils.files import write_json, write_text
from hf_finetune.utils.messages import counted

logger = logging.getLogger("hf_finetune")


@dataclass(frozen=True)
class Exported:
    """An exported classifier, and what was measured. It prints as a table."""

    folder: Path
    document: dict[str, Any]
    """The content of export.json."""

    def __str__(self) -> str:
        gate, sizes = self.document["gate"], self.document["bytes"]
        lines = [["", "size", "batch", "p50 ms", "p95 ms", "p99 ms"]]
        for name, found in self.document.get("latency", {}).items():
            for number, each in enumerate(found):
                first = [name, f"{sizes[name] / 1e6:.1f} MB"] if number == 0 else ["", ""]
                lines.append(
                    [*first, str(each["batch_size"]), *(f"{each[p]:.2f}" for p in ("p50_ms", "p95_ms", "p99_ms"))]
                )
        parts = [table(lines, right=range(1, 6))] if len(lines) > 1 else []
        compared, far = gate.get("compared", "logits"), f"{gate['max_abs_difference']:.2g}"
        said = f"{counted(gate['rows'], 'row')}: {compared} within {far}"
        if "label_agreement" in gate:
            said += f", the same labels on {100 * gate['label_agreement']:.1f}%"
        if (difference := gate.get("difference")) is not None:
            said += f"; {points(difference, decimals=2)}"
        return "\n\n".join([*parts, said])

    __repr__ = __str__

    def write_dockerfile(self) -> None:
        """Write a Dockerfile into the folder, by which an image serves the exported classifier.

        Raises:
            InputError: `serve` does not read its format.
        """
        options = ExportOptions(self.document["format"], self.document["weights"], docker=True)
        (kind := format_of(options)).check(options)
        reads_images = self.document["hub_task"] == "image-classification"
        write_dockerfile(self.folder, (*kind.extras, "vision") if reads_images else kind.extras)


@shared_cores()
def export_rows(
    classifier: TrainedModel,
    rows: Dataset,
    output: Path | None = None,
    options: ExportOptions = EXPORT_OPTIONS,
    calibration: Dataset | None = None,
) -> Exported:
    """Export a classifier to a folder, and compare it with the classifier.

    Args:
        rows: canonical rows to compare with, two at least; with labels for all formats but float32.
        output: folder. None: see `ExportOptions.folder`, in that of the run. One of an earlier export is replaced.
        calibration: other canonical rows, for the options of quantization that need some. None: `rows`.

    Raises:
        InputError: the classifier has no graph, a package is missing, options do not go together, or `output` holds
            other files.
        GateError: the exported classifier does not compute what the classifier does. Nothing is written.
        LossError: it loses too much. Nothing is written.
    """
    check_options(options)
    kind, folder = format_of(options), output or run_folder(classifier.files) / options.folder
    _check_output(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as partial, Progress("export", quiet=True):
        document = write_export(classifier, rows if calibration is None else calibration, partial, options)
        document |= kind.verify(classifier, partial, rows, options)
        if options.weights == "bfloat16" and not has_native_bf16(default_device()):
            logger.warning("--weights bfloat16: this machine does not compute it natively: smaller, but not faster")
        write_json(partial / EXPORT_FILE, document)
        if options.docker:
            Exported(partial, document).write_dockerfile()
    return Exported(folder, document)


def compared_export(
    classifier: TrainedModel, rows: Dataset, folder: Path, options: ExportOptions, calibration: Dataset
) -> tuple[dict[str, Any], Comparison]:
    """Write an export to a new folder, and compare it with the classifier on rows.

    Args:
        rows: canonical rows to compare with.
        calibration: see `write_export`.

    Returns:
        The content of export.json, and how it compares.
    """
    document = write_export(classifier, calibration, folder, options)
    return document, format_of(options).compare(classifier, folder, rows, options)[1]


def write_export(
    classifier: TrainedModel, rows: Dataset, folder: Path, options: ExportOptions = EXPORT_OPTIONS
) -> dict[str, Any]:
    """Write the files of an export to a new folder, without comparing anything.

    Args:
        rows: see `ExportFormat.write`.

    Returns:
        The content of export.json.

    Raises:
        InputError: see `ExportFormat.write`.
    """
    kind = format_of(options)
    _write_files(classifier, folder, kind)
    report = kind.write(classifier, rows, folder, options)
    files = [folder / name for name in kind.files]
    document = _describe(classifier, kind, options) | {
        "quantization": report,
        "sha256": hashing.of_files(*files),
        "bytes": {"model": _float_bytes(classifier), kind.name: sum(path.stat().st_size for path in files)},
    }
    write_json(folder / EXPORT_FILE, document)
    return document


def check_options(options: ExportOptions) -> None:
    """Refuse options that do not go together.

    Raises:
        InputError: naming the option, and what is expected.
    """
    format_of(options).check(options)
    check_quantization(options)


def _float_bytes(classifier: TrainedModel) -> int:
    return 4 * sum(weight.numel() for weight in classifier.model.parameters())


def check_exportable(classifier: TrainedModel) -> None:
    """Refuse a classifier that has no graph of its own.

    Raises:
        InputError: saying why.
    """
    if isinstance(classifier.model, ExportedNetwork):
        raise InputError(f"{classifier.name}: it is exported already; name the folder of its run")
    inputs = classifier.inputs
    if isinstance(inputs, TextInputs) and not (inputs.tokenizer.is_fast or isinstance(inputs.tokenizer, EsmTokenizer)):
        raise InputError(
            f"{classifier.name}: no tokenizer.json, by which tokenizers reads its texts without transformers; "
            "use it through transformers"
        )


def _check_output(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and ((folder / EXPORT_FILE).is_file() or not any(folder.iterdir()))):
        raise InputError(f"{folder}: it holds other files than an export; name another folder by --output")


def _write_files(classifier: TrainedModel, folder: Path, kind: ExportFormat) -> None:
    """Copy the files of the config, and of the tokenizer or image processor, and the example.

    Those of an adapter take the place of those of its base checkpoint.
    """
    for _, path in sorted(classifier.files.items(), key=lambda each: each[0].startswith("adapter/")):
        if path.name not in (HEAD_FILE, ADAPTER_CONFIG) and path.suffix != ".py":
            shutil.copyfile(path, folder / path.name)
    if isinstance(classifier.inputs, TextInputs) and not (folder / "tokenizer.json").is_file():
        tokenizer = classifier.inputs.tokenizer
        fast = letter_tokenizer(tokenizer) if isinstance(tokenizer, EsmTokenizer) else tokenizer.backend_tokenizer
        fast.save(str(folder / "tokenizer.json"))
    write_text(folder / EXAMPLE_FILE, kind.program(classifier))


def _describe(classifier: TrainedModel, kind: ExportFormat, options: ExportOptions) -> dict[str, Any]:
    """Return what export.json says of the classifier."""
    task, inputs = classifier.task, classifier.inputs
    document: dict[str, Any] = {
        "schema": 1,
        "format": kind.name,
        "weights": options.weights,
        "hub_task": task.hub_task(classifier.kind),
        "labels": list(classifier.labels),
        "activation": task.activation,
        "thresholds": task.marks().get("thresholds"),
        "versions": {name: version(name) for name in kind.packages},
    }
    if isinstance(inputs, TextInputs):
        tokenizer = inputs.tokenizer
        padding = {"pad_id": tokenizer.pad_token_id, "pad_token": tokenizer.pad_token}
        padding |= {"pad_type_id": tokenizer.pad_token_type_id, "direction": tokenizer.padding_side}
        long = None if isinstance(inputs, WordInputs) else plain_settings(inputs)
        document |= {"max_length": inputs.max_length, "padding": padding, "long": long}
    return document
