"""The state of a run between its loaded input and its first training step."""

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from hf_finetune.features.frozen_layers import TrainingRows
from hf_finetune.pipeline.context import Run
from hf_finetune.pipeline.encode_rows import EncodedRows
from hf_finetune.pipeline.record import RunRecord
from hf_finetune.pipeline.stopwatch import Stopwatch
from hf_finetune.pipeline.teacher_predictions import TeacherOutput
from hf_finetune.training.trackers.base import NO_TRACKERS, RunTrackers


@dataclass(frozen=True)
class RunSetup:
    """A run between its loaded input and its first step. Each setup stage replaces a part."""

    run: Run
    """The run, with the augmented copies among its rows, and with the number format of the chosen kernels."""
    record: RunRecord
    encoded: EncodedRows
    teacher: TeacherOutput | None
    network: PreTrainedModel
    """The network to train, with its adapter once that is added."""
    rows: TrainingRows
    """Input of the trainer: the encoded rows, or their activations once these are cached."""
    folder: Path
    clock: Stopwatch
    resume_from: Path | None
    """Checkpoint to resume from. None: train from the first step."""
    dry_run: bool
    """Save nothing, and train all weights in every step."""
    trackers: RunTrackers = NO_TRACKERS
