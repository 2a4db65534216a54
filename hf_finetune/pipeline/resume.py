"""Resume a run: refuse changes of what it computes, and reuse what was chosen at its start."""

import logging
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from hf_finetune.errors import InputError
from hf_finetune.hub.push import check_target
from hf_finetune.models.config import CheckpointLimits
from hf_finetune.pipeline.choose_kernels import default_kernels, free_kernels
from hf_finetune.pipeline.context import Run
from hf_finetune.pipeline.parity import recorded_checks, refuse_failed
from hf_finetune.pipeline.push import push_if_asked
from hf_finetune.pipeline.record import HeadStart, RunRecord
from hf_finetune.training.precision import has_native_bf16
from hf_finetune.training.probe import KernelChoice
from hf_finetune.utils.exit_status import is_main_process
from hf_finetune.utils.files import read_json
from hf_finetune.utils.messages import one_line
from hf_finetune.utils.plain import flatten

logger = logging.getLogger("hf_finetune.run")

# Fields without influence on the trained weights. A teacher may move: its weights are compared. So may a run whose
# weights are averaged with them.
MAY_CHANGE = frozenset(
    {
        *("evaluate.resamples", "evaluate.baselines", "evaluate.parity_rows", "evaluate.plots"),
        *("objective.teacher", "averaging.runs"),
        "compress",
        *("train.keep_checkpoints", "train.save_steps", "train.save_every", "train.max_time", "train.fit_schedule"),
        "train.report_to",
        *(f"model.{field.name}" for field in fields(CheckpointLimits)),
    }
)
MAY_CHANGE_WITHIN = ("hub.", "data.limits.", "search.", "compress.")
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
# Packages whose version may change a weight.
SAME_VERSIONS = ("hf_finetune", "torch", "torchvision", "transformers", "tokenizers", "peft", "accelerate", "datasets")

NEW_FOLDER = "start the run anew in another folder"


def resume_record(record: RunRecord, run: Run, folder: Path) -> RunRecord:
    """Return the record of a resumed run, with the kernels, head and layer maps chosen when it started.

    Raises:
        InputError: another version of this package or of a library began the run; or see `refuse_changes`.
    """
    earlier = _read_record(folder)
    _refuse_versions(folder, earlier.get("versions", {}), record.versions)
    # A run that stopped while pretraining has not chosen its kernels yet.
    if "kernels" in earlier or run.data.pretraining_rows is None:
        choice = KernelChoice(default_kernels(run), source="checkpoint")
        try:
            if "kernels" in earlier:
                choice = KernelChoice.from_dict(earlier["kernels"], "checkpoint")
            head = None if earlier.get("head") is None else HeadStart(**earlier["head"])
        except (LookupError, TypeError, AttributeError) as error:
            raise InputError(f"{folder / 'recipe.json'}: {one_line(error)} in kernels or head; {NEW_FOLDER}") from error
        record = replace(record, kernels=choice, head=head, layer_maps=earlier.get("layer_maps"))
        record = replace(record, cached_activations=earlier.get("cached_activations"))
        number_format = choice.kernels.mixed_precision
        if "mixed_precision" in free_kernels(run) and (number_format != "bf16" or has_native_bf16(run.context.device)):
            record = replace(record, mixed_precision=number_format)
    refuse_changes(folder, record.to_dict())
    return record


def resume_finished(run: Run, folder: Path) -> dict[str, Any] | None:
    """Take up a finished run for what comes after it, as its own end does: refuse failed checks, and push if asked.

    Returns:
        The content of result.json, and its `folder`. None in all processes but the main one.

    Raises:
        InputError: see `resume_record`; or there is no right to push.
        GateError: a saved artifact does not reproduce the model.
        PushError, StoppedBySignal: see `push_if_asked`.
    """
    hub = run.recipe.hub
    if hub.repo_id is not None:
        check_target(hub)
    resume_record(RunRecord.from_run(run), run, folder)
    if not is_main_process():
        return None
    result = read_json(folder / "result.json", NEW_FOLDER)
    refuse_failed(recorded_checks(result))
    push_if_asked(folder, hub)
    return {**result, "folder": str(folder)}


def refuse_changes(folder: Path, record: dict[str, Any]) -> None:
    """Compare the record of a resumed run with the recipe.json of its folder.

    Raises:
        InputError: recipe.json is damaged; or a field differs, named with both values; or a file of a checkpoint.
    """
    earlier = _read_record(folder)
    old, new = flatten(earlier["recipe"]), flatten(record["recipe"])
    compared = [
        name for name in old.keys() | new.keys() if name not in MAY_CHANGE and not name.startswith(MAY_CHANGE_WITHIN)
    ]
    _refuse_values(folder, {name: (old.get(name), new.get(name)) for name in sorted(compared)})
    if earlier.get("files"):
        _refuse_files(folder, earlier["files"], record["files"])
    elif record.get("files"):
        logger.info("%s: an earlier version began this run: config and tokenizer cannot be compared with then", folder)
    _refuse_values(folder, {name: (earlier.get(key), record.get(key)) for key, name in COMPARED.items()})


def _refuse_values(folder: Path, values: dict[str, tuple[Any, Any]]) -> None:
    for name, (old, new) in values.items():
        if old != new:
            raise InputError(
                f"{name}: the run in {folder} has {old!r}, now it is {new!r}; "
                "resume with the same value, or start a new run"
            )


def _refuse_files(folder: Path, old: dict[str, dict[str, str]], new: dict[str, dict[str, str]]) -> None:
    """Name the first file of a checkpoint that is another one than when the run began."""
    for owner in sorted(old.keys() | new.keys()):
        before, now = old.get(owner, {}), new.get(owner, {})
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                what = "is missing" if name not in now else "is new" if name not in before else "has changed"
                raise InputError(
                    f"{name} of {owner} {what} since the run in {folder} began; restore what it was, or start a new run"
                )


def _refuse_versions(folder: Path, old: dict[str, str], new: dict[str, str]) -> None:
    for name in SAME_VERSIONS:
        if name in old and old[name] != new.get(name):
            raise InputError(
                f"{folder}: {name} {old[name]} began this run, now it is {new.get(name)}, which may train otherwise; "
                f"pip install {name}=={old[name]}, or start a new run"
            )


def _read_record(folder: Path) -> dict[str, Any]:
    record = read_json(folder / "recipe.json", NEW_FOLDER)
    if not isinstance(record.get("recipe"), dict):
        raise InputError(f"{folder / 'recipe.json'}: it holds no recipe; {NEW_FOLDER}")
    return record
