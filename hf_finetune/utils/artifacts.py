"""Artifacts in the folder of a finished run, or in the repository it was pushed to."""

from pathlib import Path
from typing import Literal

ArtifactKind = Literal["model", "encoder", "adapter", "classical", "onnx"]
Runtime = Literal["onnx", "openvino"]
HEAD_FILE = "head.safetensors"
PIPELINE_FILE, CLASSICAL_FILE = "pipeline.skops", "classical.json"
"""A pipeline of scikit-learn, and what it reads of a row."""
GRAPH_FILE, EXPORT_FILE = "model.onnx", "export.json"
"""A graph, and what is known of it: see `compression.export`."""
GRAPHS: dict[Runtime, tuple[str, ...]] = {"onnx": (GRAPH_FILE,), "openvino": ("model.xml", "model.bin")}
"""Files of a graph, by what computes it."""
EXAMPLE_FILE = "example.py"
"""A program that runs the graph: not of the model, and never pushed."""
ADAPTER_FILE = "adapter_model.safetensors"
# The message of a refusal, when a run is planned and when it is pushed.
ADAPTER_WITHOUT_BASE = (
    "adapter/ cannot be used without the model of the run {!r}, which is in no known repository; push that run and "
    "train with --model YOUR-NAME/ITS-NAME, or name its repository by --base-model"
)


def artifacts_in(folder: Path) -> dict[ArtifactKind, Path]:
    """Return the folder of each artifact of a run, the one to predict with first.

    model: a stock classifier, in model/ or, in a repository, at the root. encoder: a stock encoder, with
    head.safetensors beside its folder, where no stock class can hold both. adapter: a PEFT adapter of the base
    checkpoint, by itself where it cannot be merged. classical: a pipeline of scikit-learn. onnx: a graph, where it is
    the result itself, and not an export of another artifact.
    """
    artifacts: dict[ArtifactKind, Path] = {}
    for candidate in (folder, folder / "model"):
        if (candidate / "config.json").is_file():
            artifacts["model"] = candidate
    if (folder / "encoder" / "config.json").is_file() and (folder / HEAD_FILE).is_file():
        artifacts["encoder"] = folder / "encoder"
    if (folder / "adapter" / "adapter_config.json").is_file():
        artifacts["adapter"] = folder / "adapter"
    for candidate in (folder, folder / "classical"):
        if (candidate / PIPELINE_FILE).is_file() and (candidate / CLASSICAL_FILE).is_file():
            artifacts["classical"] = candidate
    if not artifacts and (folder / "onnx" / EXPORT_FILE).is_file():
        artifacts["onnx"] = folder / "onnx"
    return artifacts


def exported_graph(folder: Path) -> tuple[Runtime, list[Path]] | None:
    """Return what computes the graph of an exported classifier, and its files. None: a folder of something else."""
    if (folder / EXPORT_FILE).is_file():
        for runtime, names in GRAPHS.items():
            if all((folder / name).is_file() for name in names):
                return runtime, [folder / name for name in names]
    return None
