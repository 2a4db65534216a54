"""The flags that `predict` and `evaluate` share."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from hf_finetune.augmentation.compose import Augmentation
from hf_finetune.augmentation.test_time import BOTH_STRANDS, SeveralViews
from hf_finetune.cli.operations import parse_operations
from hf_finetune.data.config import SourceSplit
from hf_finetune.errors import InputError
from hf_finetune.models.config import CHECKPOINT_LIMITS, CheckpointLimits
from hf_finetune.utils.artifacts import exported_graph
from hf_finetune.utils.config import Operations
from hf_finetune.utils.console import Progress
from hf_finetune.utils.experimental import experimental_notes

if TYPE_CHECKING:
    from hf_finetune.tasks.trained_pipeline import Trained

Runtime = Literal["torch", "onnx", "openvino"]


@dataclass(frozen=True)
class ClassifyJob:
    """A finished classifier and the rows to classify."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Folder of a run or of a model, or a Hub id."""
    data: Annotated[SourceSplit, tyro.conf.arg(name="")]
    batch_size: int | None = None
    """Rows of one forward pass. None: as many as have 2048 tokens in total, or 64 images."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Number format. auto: `evaluate` computes in float32. `predict` computes in bf16 where the hardware supports it
    natively, and repeats rows whose label could flip in float32."""
    runtime: Runtime = "torch"
    """What computes. onnx: ONNX Runtime, from onnx/ of the run, which `hf-finetune export` writes; openvino: from
    openvino/, by `export --format openvino`. MODEL may be the folder of an export, too."""
    augment: Annotated[str | None, tyro.conf.arg(metavar="YAML")] = None
    """Test-time augmentation, with --views: operations as in data.augment, `[Flip]` or `[{type: SwapWords, p: 0.2}]`,
    see `hf-finetune train --help-all`. A row's probabilities are the mean over its views, and --precision auto is
    float32. Experimental: no better on movie reviews, for 3.7 times the time (docs/benchmarks.md#augmentation)."""
    views: int | None = None
    """Number of views of every row: the unchanged row, and others augmented by --augment."""
    reverse_complement: bool = False
    """Average over both strands of DNA or RNA: short for --augment '[{type: ReverseComplement, p: 1}]' --views 2."""
    seed: int = 0
    """Seed of the views: a row has the same views in every run with this seed."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    limits: Annotated[CheckpointLimits, tyro.conf.arg(name="model")] = CHECKPOINT_LIMITS
    """Limits on the model. A run on this machine has those that it was trained with, too."""
    json: bool = False
    """Print only the result, as JSON."""


def load_trained_classifier(job: ClassifyJob) -> Trained:
    """Load the classifier of a job."""
    from hf_finetune.tasks.trained_pipeline import load_finished

    logger = logging.getLogger("hf_finetune")
    logger.setLevel(logging.INFO)  # no later message repeats the notes on the data
    with Progress("load the model", quiet=True):
        name = model_of_runtime(job.model, job.runtime)
        classifier = load_finished(name, trust_remote_code=job.trust_remote_code, limits=job.limits)
    for note in experimental_notes(job, "--"):
        logger.info(note)
    return classifier


def model_of_runtime(model: str, runtime: Runtime) -> str:
    """Return the folder that a runtime computes with: of onnx and openvino, the export of the run.

    Raises:
        InputError: there is none.
    """
    if runtime == "torch":
        return model
    folders = [Path(model).expanduser(), Path(model).expanduser() / runtime]
    for folder in folders:
        if (graph := exported_graph(folder)) is not None and graph[0] == runtime:
            return str(folder)
    command = f"hf-finetune export {model}" + ("" if runtime == "onnx" else f" --format {runtime}")
    raise InputError(f"--runtime {runtime}: no export in {folders[1]}; write it by `{command}`")


def parse_views(job: ClassifyJob) -> SeveralViews | None:
    """Return the test-time augmentation of a job, or None.

    Raises:
        InputError: no such operation, a field out of range, or only one of --augment and --views.
    """
    if job.reverse_complement:
        if job.augment is not None or job.views is not None:
            raise InputError("--reverse-complement: expected no --augment and --views with it: it makes both views")
        return BOTH_STRANDS
    if job.augment is None:
        if job.views is not None:
            raise InputError(f"--views {job.views}: expected --augment with it, the operations that make the views")
        return None
    if job.views is None:
        raise InputError(f"--augment {job.augment}: expected --views N with it, the number of views of each row")
    return SeveralViews(parse_operations(job.augment, "--augment", Operations[Augmentation]), job.views, job.seed)
