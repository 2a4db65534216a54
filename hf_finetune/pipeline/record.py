"""What recipe.json holds: enough to run a run again, and what a resumed run must find unchanged."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hf_finetune.augmentation.generative.paraphraser import checkpoint_digests
from hf_finetune.distillation.layer_search import LayerMap
from hf_finetune.pipeline.context import PreparedRun
from hf_finetune.pipeline.fit_head import HeadStart
from hf_finetune.pipeline.kernels import default_kernels, free_kernels
from hf_finetune.pipeline.run_folder import refuse_changes
from hf_finetune.training.precision import has_native_bf16
from hf_finetune.training.probe import Choice
from hf_finetune.utils import environment
from hf_finetune.utils.files import write_json
from hf_finetune.utils.plain import to_plain


@dataclass(frozen=True)
class RunRecord:
    """A run as recipe.json has it. What is chosen as the run begins is added, and used again when it is resumed."""

    recipe: dict[str, Any]
    fingerprint: str
    labels: tuple[str, ...]
    weights: str
    teacher: str | None
    augment_checkpoints: list[str]
    """Digests of the language models in `data.augment`."""
    pretrain_fingerprint: str | None
    mixed_precision: str
    processes: int
    versions: dict[str, str]
    command: str | None
    kernels: Choice | None = None
    """None: not chosen yet."""
    head: HeadStart | None = None
    """None: not fitted before training."""
    layer_maps: list[LayerMap] | None = None
    """See `distillation.layer_search.search_layers`; None: not searched."""

    @classmethod
    def of(cls, run: PreparedRun, command: str | None = None) -> RunRecord:
        """What is known of a run before its first step."""
        unlabeled = run.data.unlabeled
        return cls(
            recipe=to_plain(run.recipe),
            fingerprint=run.data.splits.fingerprint,
            labels=run.data.splits.labels,
            weights=run.model.weights,
            teacher=run.teacher_weights,
            augment_checkpoints=checkpoint_digests(run.recipe.data.augment),
            pretrain_fingerprint=None if unlabeled is None else unlabeled.fingerprint,
            mixed_precision=run.context.mixed_precision,
            processes=run.context.processes,
            versions=environment.versions(),
            command=command,
        )

    def to_dict(self) -> dict[str, Any]:
        """As recipe.json has it."""
        return {
            "recipe": self.recipe,
            "fingerprint": self.fingerprint,
            "labels": list(self.labels),
            "weights": self.weights,
            "teacher": self.teacher,
            **({"augment_checkpoints": self.augment_checkpoints} if self.augment_checkpoints else {}),
            "pretrain_fingerprint": self.pretrain_fingerprint,
            "mixed_precision": self.mixed_precision,
            "processes": self.processes,
            "versions": self.versions,
            "command": self.command,
            **({} if self.layer_maps is None else {"layer_maps": self.layer_maps}),
            **({} if self.kernels is None else {"kernels": self.kernels.to_dict()}),
            **({} if self.head is None else {"head": self.head.to_dict()}),
        }

    def write(self, folder: Path) -> None:
        """Write recipe.json."""
        write_json(folder / "recipe.json", self.to_dict())


def resumed(record: RunRecord, run: PreparedRun, folder: Path) -> RunRecord:
    """The record of a run that goes on: it computes as it did before, whatever would be chosen today.

    Raises:
        InputError: see `refuse_changes`.
    """
    record = _with_earlier_choices(record, run, _choices(folder))
    refuse_changes(folder, record.to_dict())
    return record


def _with_earlier_choices(record: RunRecord, run: PreparedRun, choices: dict[str, Any]) -> RunRecord:
    stored = choices.get("kernels")
    if stored is None and run.data.unlabeled is not None:
        # It was stopped while it was pretrained: nothing has been chosen yet.
        return record
    kernels = Choice(default_kernels(run), source="checkpoint")
    if stored is not None:
        kernels = Choice.from_dict(stored, "checkpoint")
    number_format = kernels.kernels.mixed_precision
    if "mixed_precision" in free_kernels(run) and (number_format != "bf16" or has_native_bf16(run.context.device)):
        record = replace(record, mixed_precision=number_format)
    head = choices.get("head")
    return replace(
        record,
        kernels=kernels,
        head=None if head is None else HeadStart(**head),
        layer_maps=choices.get("layer_maps"),
    )


def _choices(folder: Path) -> dict[str, Any]:
    """What the run in `folder` chose when it began; {}: its recipe.json does not say."""
    try:
        return json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    except ValueError:
        return {}  # refuse_changes says so
