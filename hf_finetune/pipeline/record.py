"""The content of recipe.json: the recipe of a run, what it was applied to, and what was chosen at its start."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hf_finetune.augmentation.generative.paraphraser import checkpoint_digests, checkpoint_files
from hf_finetune.distillation.feature_matching.layer_search import LayerMap
from hf_finetune.models.checkpoint import settings_files
from hf_finetune.pipeline.context import Run
from hf_finetune.training.probe import KernelChoice
from hf_finetune.utils import environment, hashing
from hf_finetune.utils.files import write_json
from hf_finetune.utils.plain import to_plain


@dataclass(frozen=True)
class HeadStart:
    """How the head was initialized."""

    explained: float
    """See `training.warm_start.FittedHead`."""
    fitted: bool
    """Whether the fitted head was taken."""


@dataclass(frozen=True)
class RunRecord:
    """Enough to run a run again. Choices at its start are added, and reused when it is resumed."""

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
    files: dict[str, dict[str, str]]
    """SHA-256 of the files beside the weights on which the result depends, by checkpoint and name, see `input_files`.
    Empty for a record of an earlier version."""
    kernels: KernelChoice | None = None
    """None: not chosen yet."""
    head: HeadStart | None = None
    """None: not fitted."""
    layer_maps: list[LayerMap] | None = None
    """See `distillation.feature_matching.layer_search.search_layers`. None: not searched."""

    cached_activations: bool | None = None
    """Whether training reads cached activations of the frozen layers, which differ from fresh ones by rounding; None:
    not known yet."""

    @classmethod
    def from_run(cls, run: Run, command: str | None = None) -> RunRecord:
        """Return the record of a run before its setup."""
        pretraining = run.data.pretraining_rows
        return cls(
            recipe=to_plain(run.recipe),
            fingerprint=run.data.splits.fingerprint,
            labels=run.data.splits.labels,
            weights=run.origin.weights,
            teacher=None if run.teachers is None else run.teachers.weights,
            augment_checkpoints=checkpoint_digests(run.recipe.data.augment, run.context.checkpoint.limits),
            pretrain_fingerprint=None if pretraining is None else pretraining.fingerprint,
            mixed_precision=run.context.mixed_precision,
            processes=run.context.processes,
            versions=environment.versions(),
            command=command,
            files=input_files(run),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the content of recipe.json, without optional parts that the run lacks."""
        optional = {
            "augment_checkpoints": self.augment_checkpoints or None,
            "kernels": None if self.kernels is None else self.kernels.to_dict(),
            "head": None if self.head is None else asdict(self.head),
            "layer_maps": self.layer_maps,
            "cached_activations": self.cached_activations,
        }
        fields = {name: value for name, value in vars(self).items() if name not in optional}
        return fields | {name: value for name, value in optional.items() if value is not None}

    def write(self, folder: Path) -> None:
        """Write recipe.json."""
        write_json(folder / "recipe.json", self.to_dict())


def input_files(run: Run) -> dict[str, dict[str, str]]:
    """Return the SHA-256 of every config, vocabulary and processor file of a run's checkpoints.

    Their weights are compared by digests of their own; the rows by the data's fingerprint.
    """
    files = {"the checkpoint": hashing.of_each(settings_files(run.context.checkpoint.folder))}
    teachers = () if run.teachers is None else run.teachers.members
    files |= {f"teacher {n}": teacher.files for n, teacher in enumerate(teachers, start=1)}
    augmenting = enumerate(checkpoint_files(run.recipe.data.augment, run.context.checkpoint.limits), start=1)
    return files | {f"checkpoint {n} of data.augment": digests for n, digests in augmenting}
