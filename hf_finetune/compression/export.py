"""Export a trained classifier: its graph, tokenizer or image processor, labels and an example, verified on its data."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import EsmTokenizer

from hf_finetune.compression import examples
from hf_finetune.compression.config import EXPORT_OPTIONS, FOLDERS, ExportOptions, Numbers
from hf_finetune.compression.docker import write_dockerfile
from hf_finetune.compression.gate import Comparison, compare_exported, refuse
from hf_finetune.compression.graph import write_graph
from hf_finetune.compression.latency import latency
from hf_finetune.compression.letter_tokenizer import letter_tokenizer
from hf_finetune.compression.quantization.quantize import check_options, quantize
from hf_finetune.data.inputs import TextInputs
from hf_finetune.data.word_inputs import WordInputs
from hf_finetune.errors import InputError
from hf_finetune.models.onnx_network import OnnxNetwork
from hf_finetune.models.peft.adapters import CONFIG_FILE as ADAPTER_CONFIG
from hf_finetune.pipeline.parity import plain_settings
from hf_finetune.pipeline.run_folder import replacing
from hf_finetune.tasks.trained_model import TrainedModel, load_trained, run_folder
from hf_finetune.utils import hashing
from hf_finetune.utils.artifacts import EXAMPLE_FILE, EXPORT_FILE, GRAPH_FILE, HEAD_FILE
from hf_finetune.utils.console import Progress, table
from hf_finetune.utils.core_sharing import shared_cores
from hf_finetune.utils.files import write_json
from hf_finetune.utils.messages import counted

EXAMPLES = Path(examples.__file__).parent


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
        agree = f"{100 * gate['label_agreement']:.1f}%"
        far = f"{gate['max_abs_difference']:.2g}"
        said = f"{counted(gate['rows'], 'row')}: logits within {far}, the same labels on {agree}"
        if (difference := gate["difference"]) is not None:
            low, high = (100 * difference[bound] for bound in ("low", "high"))
            said += f"; {difference['metric']} {100 * difference['value']:+.2f} points [{low:+.2f}, {high:+.2f}]"
        return "\n\n".join([*parts, said])

    __repr__ = __str__


@shared_cores()
def export_rows(
    classifier: TrainedModel,
    rows: Dataset,
    output: Path | None = None,
    options: ExportOptions = EXPORT_OPTIONS,
    calibration: Dataset | None = None,
) -> Exported:
    """Export a classifier to a folder that ONNX Runtime runs, and compare it with the classifier.

    Args:
        rows: canonical rows to compare with, two at least; with labels for all formats but float32.
        output: folder. None: see `FOLDERS`, in that of the run. One of an earlier export is replaced.
        calibration: other canonical rows, for the options of quantization that need some. None: `rows`.

    Raises:
        InputError: the classifier has no graph, a package is missing, or `output` holds other files.
        GateError: the exported classifier does not compute what the classifier does. Nothing is written.
        LossError: it loses too much. Nothing is written.
    """
    check_options(options)
    folder = output or run_folder(classifier.files) / FOLDERS[options.weights]
    _check_output(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as partial, Progress("export", quiet=True):
        exported, document, found = compared_export(
            classifier, rows, partial, options, rows if calibration is None else calibration
        )
        refuse(found, options.weights, max_loss=None if options.weights == "float32" else options.max_loss)
        document |= {"gate": found.to_dict()}
        if options.latency:
            document["latency"] = {"torch": latency(classifier, rows), "onnx": latency(exported, rows)}
        write_json(partial / EXPORT_FILE, document)
        if options.docker:
            write_dockerfile(partial)
    return Exported(folder, document)


def compared_export(
    classifier: TrainedModel, rows: Dataset, folder: Path, options: ExportOptions, calibration: Dataset
) -> tuple[TrainedModel, dict[str, Any], Comparison]:
    """Write an export to a new folder, and compare it with the classifier on rows.

    Args:
        rows: canonical rows to compare with.
        calibration: see `write_export`.

    Returns:
        The exported classifier, the content of export.json, and how it compares.
    """
    document = write_export(classifier, calibration, folder, options)
    exported = load_trained(str(folder), limits=classifier.limits)
    lossy = options.weights != "float32"
    return exported, document, compare_exported(classifier, exported, folder, rows, lossy=lossy)


def write_export(
    classifier: TrainedModel, rows: Dataset, folder: Path, options: ExportOptions = EXPORT_OPTIONS
) -> dict[str, Any]:
    """Write the files of an export to a new folder, without comparing anything.

    Args:
        rows: two at least, with which the graph is traced, and which calibrate quantization.

    Returns:
        The content of export.json.

    Raises:
        InputError: see `graph.write_graph` and `quantization.quantize`.
    """
    _write_files(classifier, folder)
    report, float_bytes = _write_graph(classifier, rows, folder / GRAPH_FILE, options)
    document = _describe(classifier, folder, options.weights)
    document |= {"quantization": report, "bytes": {"torch": float_bytes, "onnx": document["graph_bytes"]}}
    write_json(folder / EXPORT_FILE, document)
    return document


def _write_graph(
    classifier: TrainedModel, rows: Dataset, path: Path, options: ExportOptions
) -> tuple[dict[str, Any] | None, int]:
    """Write the graph, and return how it was quantized, and the bytes of the one in float32."""
    if options.weights == "float32":
        write_graph(classifier, rows, path)
        return None, path.stat().st_size
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        whole = Path(name) / GRAPH_FILE
        write_graph(classifier, rows, whole)
        report = quantize(classifier, whole, path, options, rows)
        return report, whole.stat().st_size


def check_exportable(classifier: TrainedModel) -> None:
    """Refuse a classifier that has no graph of its own.

    Raises:
        InputError: saying why.
    """
    if isinstance(classifier.model, OnnxNetwork):
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


def _write_files(classifier: TrainedModel, folder: Path) -> None:
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
    shutil.copyfile(EXAMPLES / f"{classifier.kind}s.py", folder / EXAMPLE_FILE)


def _describe(classifier: TrainedModel, folder: Path, weights: Numbers) -> dict[str, Any]:
    """Return what export.json says of the classifier."""
    task, inputs, graph = classifier.task, classifier.inputs, folder / GRAPH_FILE
    document: dict[str, Any] = {
        "schema": 1,
        "weights": weights,
        "hub_task": task.hub_task(classifier.kind),
        "labels": list(classifier.labels),
        "activation": task.activation,
        "thresholds": task.marks().get("thresholds"),
        "sha256": hashing.of_files(graph),
        "graph_bytes": graph.stat().st_size,
        "versions": {name: version(name) for name in ("torch", "transformers", "onnx", "onnxruntime")},
    }
    if isinstance(inputs, TextInputs):
        tokenizer = inputs.tokenizer
        padding = {"pad_id": tokenizer.pad_token_id, "pad_token": tokenizer.pad_token}
        padding |= {"pad_type_id": tokenizer.pad_token_type_id, "direction": tokenizer.padding_side}
        long = None if isinstance(inputs, WordInputs) else plain_settings(inputs)
        document |= {"max_length": inputs.max_length, "padding": padding, "long": long}
    return document
