"""Resume a run: refuse changes of what it computes, and reuse what was chosen at its start."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_finetune.errors import InputError
from hf_finetune.pipeline.choose_kernels import default_kernels, free_kernels
from hf_finetune.pipeline.context import Run
from hf_finetune.pipeline.record import HeadStart, RunRecord
from hf_finetune.training.precision import has_native_bf16
from hf_finetune.training.probe import KernelChoice
from hf_finetune.utils.plain import flatten

# Fields without influence on the trained weights. A teacher may move: its weights are compared.
MAY_CHANGE = frozenset(
    {"evaluate.resamples", "evaluate.baselines", "evaluate.parity_rows", "train.keep_checkpoints", "objective.teacher"}
)
# Further keys of recipe.json that must stay the same, by their names in messages.
COMPARED = {
    "fingerprint": "data fingerprint",
    "weights": "weights of the checkpoint",
    "teacher": "weights of the teacher",
    "augment_checkpoints": "checkpoints of data.augment",
    "pretrain_fingerprint": "fingerprint of the rows without labels",
    "processes": "processes",
    "mixed_precision": "mixed precision",
}


def resume_record(record: RunRecord, run: Run, folder: Path) -> RunRecord:
    """Return the record of a resumed run, with the kernels, head and layer maps chosen when it started.

    Raises:
        InputError: see `refuse_changes`.
    """
    earlier = _read_record(folder)
    # A run that stopped while pretraining has not chosen its kernels yet.
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


def refuse_changes(folder: Path, record: dict[str, Any]) -> None:
    """Compare the record of a resumed run with the recipe.json of its folder.

    Raises:
        InputError: recipe.json is damaged; or a field differs, named with both values.
    """
    old, new = _comparable(_read_record(folder)), _comparable(record)
    for name in sorted(old.keys() | new.keys()):
        if name in MAY_CHANGE or name.startswith("hub."):
            continue
        if old.get(name) != new.get(name):
            raise InputError(
                f"{name}: the run in {folder} has {old.get(name)!r}, now it is {new.get(name)!r}; "
                "resume with the same value, or start a new run"
            )


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / "recipe.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}); start the run anew in another folder") from error


def _comparable(record: dict[str, Any]) -> dict[str, Any]:
    return flatten(record["recipe"]) | {name: record.get(key) for key, name in COMPARED.items()}
