"""What recipe.json holds: enough to run a run again, and what a resumed run must find unchanged."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hf_finetune.augmentation.generative.paraphraser import checkpoint_digests
from hf_finetune.distillation.features.layer_search import LayerMap
from hf_finetune.pipeline.context import PreparedRun
from hf_finetune.pipeline.fit_head import HeadStart
from hf_finetune.pipeline.kernels import default_kernels, free_kernels
from hf_finetune.pipeline.run_folder import read_record, refuse_changes
from hf_finetune.training.precision import has_native_bf16
from hf_finetune.training.probe import KernelChoice
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
    kernels: KernelChoice | None = None
    """None: not chosen yet."""
    head: HeadStart | None = None
    """None: not fitted before training."""
    layer_maps: list[LayerMap] | None = None
    """See `distillation.features.layer_search.search_layers`; None: not searched."""

    @classmethod
    def of(cls, run: PreparedRun, command: str | None = None) -> RunRecord:
        """What is known of a run before its first step."""
        pretraining = run.data.pretraining_rows
        return cls(
            recipe=to_plain(run.recipe),
            fingerprint=run.data.splits.fingerprint,
            labels=run.data.splits.labels,
            weights=run.origin.weights,
            teacher=run.teacher_weights,
            augment_checkpoints=checkpoint_digests(run.recipe.data.augment),
            pretrain_fingerprint=None if pretraining is None else pretraining.fingerprint,
            mixed_precision=run.context.mixed_precision,
            processes=run.context.processes,
            versions=environment.versions(),
            command=command,
        )

    def to_dict(self) -> dict[str, Any]:
        """As recipe.json has it: without what a run does not have."""
        kernels, head = self.kernels, self.head
        optional = {
            "augment_checkpoints": self.augment_checkpoints or None,
            "kernels": None if kernels is None else kernels.to_dict(),
            "head": None if head is None else asdict(head),
            "layer_maps": self.layer_maps,
        }
        fields = {name: value for name, value in vars(self).items() if name not in optional}
        return fields | {name: value for name, value in optional.items() if value is not None}

    def write(self, folder: Path) -> None:
        """Write recipe.json."""
        write_json(folder / "recipe.json", self.to_dict())


def resumed(record: RunRecord, run: PreparedRun, folder: Path) -> RunRecord:
    """The record of a run that goes on: it computes as it did before, whatever would be chosen today.

    Raises:
        InputError: see `refuse_changes`.
    """
    earlier = read_record(folder)
    # Without kernels it was stopped while it was pretrained: nothing has been chosen yet.
    if "kernels" in earlier or run.data.pretraining_rows is None:
        choice = KernelChoice(default_kernels(run), source="checkpoint")
        if "kernels" in earlier:
            choice = KernelChoice.from_dict(earlier["kernels"], "checkpoint")
        head = None if earlier.get("head") is None else HeadStart(**earlier["head"])
        record = replace(record, kernels=choice, head=head, layer_maps=earlier.get("layer_maps"))
        number_format = choice.kernels.mixed_precision
        if "mixed_precision" in free_kernels(run) and (number_format != "bf16" or has_native_bf16(run.context.device)):
            record = replace(record, mixed_precision=number_format)
    refuse_changes(folder, record.to_dict())
    return record
