"""A trained pipeline of scikit-learn: the result of method classical, in DIR/classical/.

Legend: N rows, C classes, tags or targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from datasets import Dataset

from hf_finetune.data.config import FEATURE, Kind
from hf_finetune.errors import GateError, InputError
from hf_finetune.features.classical import FittedClassical
from hf_finetune.features.config import Classical, EncoderFeatures
from hf_finetune.features.encoder_states import load_encoder
from hf_finetune.features.extractors.base import Computed, TableColumns
from hf_finetune.features.pipelines import Outputs, logits_of
from hf_finetune.features.skops_file import load_pipeline, save_pipeline
from hf_finetune.features.table import RowTable
from hf_finetune.models.checkpoint import check_files, find_checkpoint
from hf_finetune.models.config import CHECKPOINT_LIMITS, CheckpointLimits
from hf_finetune.tasks.base import Task
from hf_finetune.tasks.choose import saved_task
from hf_finetune.tasks.trained_model import RESTORE, TrainedClassifier, TrainedModel, load_trained, saved_fields
from hf_finetune.utils.artifacts import CLASSICAL_FILE, PIPELINE_FILE, artifacts_in
from hf_finetune.utils.config import validated
from hf_finetune.utils.files import read_json, write_json
from hf_finetune.utils.plain import to_plain

OUTPUTS: dict[str, Outputs] = {"softmax": "classes", "sigmoid": "tags", "identity": "numbers"}
"""What a task's activation makes of logits."""


@dataclass(frozen=True)
class TrainedPipeline(TrainedClassifier):
    """A trained pipeline."""

    fitted: FittedClassical
    task: Task
    kind: Kind

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of its classes, tags or targets, in the order of its outputs."""
        return self.task.labels

    @property
    def features(self) -> tuple[str, ...]:
        """Columns that it reads beside the text or the image."""
        canonical = self.fitted.table.canonical
        return tuple(column for column, name in canonical.items() if name.startswith(FEATURE))

    @property
    def is_plain(self) -> bool:
        """Whether scikit-learn alone, with skops, reads its rows."""
        computed = any(isinstance(each, Computed) for each in self.fitted.table.extractors)
        return not computed and not self.pairs

    def logits(self, rows: Dataset) -> np.ndarray:
        """Return numbers that `Task.scores` turns into what the pipeline predicts, shape (N, C), float64."""
        return logits_of(self.fitted.scores(rows), self.fitted.outputs)

    def save(self, folder: Path) -> None:
        """Write pipeline.skops and classical.json."""
        fitted, table = self.fitted, self.fitted.table
        save_pipeline(fitted.pipeline, folder / PIPELINE_FILE)
        write_json(
            folder / CLASSICAL_FILE,
            {
                "problem_type": self.task.problem_type,
                "label_task": self.task.name,
                "labels": list(self.labels),
                **self.task.marks(),
                "kind": self.kind,
                "columns": {name: list(c) if isinstance(c, tuple) else c for name, c in self.columns.items()},
                "table": {**asdict(table.columns), "canonical": dict(table.canonical)},
                # The extractors, and the fields that were chosen. The transforms are in the pipeline.
                "classical": to_plain(Classical(fitted.classifier, table.extractors)),
                "checkpoints": self._weights(),
                "trained_on_pairs": self.pairs,
                "label_values": dict(self.label_values),
                "label_separator": self.label_separator,
                "sequence": self.sequence,
            },
        )

    def check_checkpoints(self, weights: Mapping[str, str]) -> None:
        """Compare the checkpoints that its features are of with those that it was fitted to.

        Args:
            weights: commit or SHA-256 of the weights, by the name of the checkpoint.

        Raises:
            InputError: a checkpoint cannot be loaded.
            GateError: one has other weights.
        """
        for checkpoint, actual in self._weights().items():
            if weights.get(checkpoint) != actual:
                raise GateError(
                    f"{self.name}: its features are of {checkpoint}, whose weights are not those that it was trained "
                    "with; restore them, or train again"
                )

    def _weights(self) -> dict[str, str]:
        encoders = [each for each in self.fitted.table.extractors if isinstance(each, EncoderFeatures)]
        return {e.checkpoint: load_encoder(e.checkpoint, self.kind, e.max_length).weights for e in encoders}


Trained: TypeAlias = TrainedModel | TrainedPipeline
"""What a finished run has: a network, or a pipeline of scikit-learn."""


def load_finished(
    checkpoint: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    limits: CheckpointLimits = CHECKPOINT_LIMITS,
) -> Trained:
    """Load the result of a run: a network, see `trained_model.load_trained`, or the pipeline of method classical.

    Raises:
        InputError: see `load_trained`; or the pipeline is damaged, or holds what is not loaded.
        GateError: its files are not those that the run wrote.
    """
    found = find_checkpoint(checkpoint, revision=revision, trust_remote_code=trust_remote_code)
    if (folder := artifacts_in(found.folder).get("classical")) is None:
        return load_trained(checkpoint, trust_remote_code=trust_remote_code, limits=limits, found=found)
    check_files(checkpoint, found.folder, found.commit)
    return load_trained_pipeline(folder, checkpoint)


def load_trained_pipeline(folder: Path, name: str) -> TrainedPipeline:
    """Load a folder that `TrainedPipeline.save` wrote.

    Raises:
        InputError: it is damaged, or see `load_pipeline`.
    """
    files = {file: folder / file for file in (CLASSICAL_FILE, PIPELINE_FILE)}
    saved = read_json(files[CLASSICAL_FILE], RESTORE)
    try:
        labels, stored = tuple(map(str, saved["labels"])), saved["table"]
        task = saved_task(name, labels, saved)
        parts = {part: tuple(stored[part]) for part in ("texts", "empty", "numbers", "names")}
        columns = TableColumns(**parts, has_images=stored["has_images"] is True)
        config = validated(saved["classical"], Classical, CLASSICAL_FILE)
        table = RowTable(columns, dict(stored["canonical"]), config.extractors)
        read_columns = {n: tuple(c) if isinstance(c, list) else str(c) for n, c in saved["columns"].items()}
        kind: Kind = "image" if columns.has_images else "text"
        weights = _checkpoints(files[CLASSICAL_FILE], saved)
    except (LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{files[CLASSICAL_FILE]}: it lacks {error}; {RESTORE}") from None
    pipeline = load_pipeline(files[PIPELINE_FILE], name)
    trained = TrainedPipeline(
        FittedClassical(pipeline, table, labels, OUTPUTS[task.activation], config.classifier),
        task,
        kind,
        files=files,
        name=name,
        columns=read_columns,
        **saved_fields(name, saved, CLASSICAL_FILE),
    )
    trained.check_checkpoints(weights)
    return trained


def _checkpoints(path: Path, saved: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the weights of the checkpoints that the features are of, by name.

    Raises:
        InputError: they are damaged.
    """
    stored = saved.get("checkpoints", {})
    if not isinstance(stored, dict):
        raise InputError(f"{path}: checkpoints: expected the weights of each by name, got {stored!r}; {RESTORE}")
    return stored


def refuse_local_checkpoints(folder: Path) -> None:
    """Refuse to push a pipeline whose features are of a checkpoint that only this machine has.

    Args:
        folder: with classical.json.

    Raises:
        InputError: naming the checkpoint.
    """
    path = folder / CLASSICAL_FILE
    for checkpoint in _checkpoints(path, read_json(path, RESTORE)):
        if Path(checkpoint).expanduser().exists():
            raise InputError(
                f"{folder}: its features are of {checkpoint}, which nobody else has; train with the Hub id of a "
                "checkpoint in EncoderFeatures"
            )
