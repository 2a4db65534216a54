"""A loaded classifier compared with its checkpoint: which modules are new, and whether the head can be used."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel

from hf_finetune.errors import InputError
from hf_finetune.models.checkpoint import LocalCheckpoint
from hf_finetune.models.checkpoint_config import class_names
from hf_finetune.models.contexts import seeded
from hf_finetune.models.modules import TOKEN_CLASSIFIER, classification_layers, encoder, is_token_classifier, reorder
from hf_finetune.utils.messages import counted, plural

log = logging.getLogger("hf_finetune")

TOKENS = "tokens"
"""In place of a problem type, which classes with an output for each token do not have."""
NOUNS = {
    "multi_label_classification": ("tag", "tags"),
    "regression": ("target", "targets"),
    TOKENS: ("tag of words", "tags of words"),
}
"""What a head of each problem type is for, besides classes."""


def compare_weights(
    local: LocalCheckpoint, model: PreTrainedModel, info: dict[str, Any], seed: int, keep_head: bool
) -> tuple[tuple[str, ...], list[str]]:
    """Return the modules that start from random weights, and notes for the user; match the head to the labels.

    Args:
        info: loading info of `from_pretrained`.
        keep_head: see `loading.load_classifier`.

    Raises:
        InputError: the weights belong to another encoder.
    """
    mismatched = {key: (stored, expected) for key, stored, expected in info["mismatched_keys"]}
    missing = {key for key in info["missing_keys"] if not key.endswith("num_batches_tracked")}
    _check_encoder(local.name, model, mismatched, missing)
    owners = {key.rpartition(".")[0] for key in missing | mismatched.keys()}
    fresh = tuple(name for name, _ in model.named_modules() if name in owners)
    notes = []
    if mismatched:
        notes.append(_other_head(local, model, _checkpoint_classes(local)))
    elif all(name.startswith(f"{model.base_model_prefix}.") for name in fresh):
        fresh, note = _match_head(local, model, fresh, seed, keep_head)
        notes.append(note)
    if fresh:
        notes.append(f"{local.name}: {', '.join(fresh)} not in the checkpoint, started from seed {seed}")
    unused = sorted({key.split(".")[0] for key in info["unexpected_keys"]})
    if unused:
        notes.append(f"{local.name}: {', '.join(unused)} of the checkpoint not used")
    return fresh, notes


def _check_encoder(
    name: str,
    model: PreTrainedModel,
    mismatched: Mapping[str, tuple[Sequence[int], Sequence[int]]],
    missing: set[str],
) -> None:
    """Refuse encoder weights that mismatch or are mostly missing; warn if some are missing."""
    prefix = f"{model.base_model_prefix}."
    for key, (stored, expected) in sorted(mismatched.items()):
        if key.startswith(prefix):
            shapes = f"has the shape {list(stored)}, its config.json says {list(expected)}"
            raise InputError(f"{name}: {key} {shapes}; the two do not belong together")
    keys = [f"{prefix}{key}" for key, _ in encoder(model).named_parameters()]
    lost = [key for key in keys if key in missing]
    if len(lost) == len(keys):
        raise InputError(f"{name}: none of its weights fits {type(model).__name__}; is this another kind of model?")
    if len(lost) > len(keys) / 2:
        raise InputError(
            f"{name}: {len(lost)} of {len(keys)} encoder weights are missing ({lost[0]}, ...); "
            "the file and config.json do not belong together"
        )
    lost = [key for key in lost if "pooler" not in key]
    if lost:
        what = "encoder weights are missing and start at random"
        log.warning("%s: %d of %d %s (%s, ...)", name, len(lost), len(keys), what, lost[0])


def _match_head(
    local: LocalCheckpoint, model: PreTrainedModel, fresh: tuple[str, ...], seed: int, keep_head: bool
) -> tuple[tuple[str, ...], str]:
    """Keep the head of a checkpoint with the same classes, in their order, or reset it; return new modules and a note.

    A head for the tags, classes or target of another task is reset, too: its logits mean something else.

    Args:
        fresh: new modules, none of them in the head.
    """
    stored, labels = _checkpoint_classes(local), list((model.config.id2label or {}).values())
    same = stored == labels or (len(set(stored)) == len(stored) and sorted(stored) == sorted(labels))
    same = same and _is_same_task(local, model)
    layers = classification_layers(model)
    if same and keep_head:
        outputs = plural(len(stored), "this target", f"these {_outputs(local, stored)}")
        note = f"{local.name}: it has a head for {outputs}"
        if stored != labels:
            reorder(layers, [stored.index(name) for name in labels])
            note += ", in another order than the data's; they are matched by name"
        return fresh, note
    # The sizes agree, so transformers loaded weights that belong to other classes.
    with seeded(seed):
        for layer in layers:
            layer.reset_parameters()
    names = tuple(name for name, module in model.named_modules() if name in fresh or module in layers)
    if not same:
        return names, _other_head(local, model, stored)
    why = "only the encoder is pretrained"
    return names, f"{local.name}: its head for {_outputs(local, stored)} is replaced: {why}"


def _checkpoint_classes(local: LocalCheckpoint) -> list[str]:
    """Return the checkpoint's class names; if their ids are not 0, 1, 2, ..., names that match no label."""
    try:
        return class_names(local.name, local.config)
    except InputError:
        names = local.config["id2label"]
        return [f"{i}: {name}" for i, name in (names.items() if isinstance(names, dict) else enumerate(names))]


def _problem_type(local: LocalCheckpoint) -> str:
    """Return the problem type of a checkpoint with a head; one that says none and has one output predicts numbers."""
    architectures = local.config.get("architectures")
    if isinstance(architectures, list) and any(str(name).endswith(TOKEN_CLASSIFIER) for name in architectures):
        return TOKENS
    stored = local.config.get("problem_type")
    return str(stored or ("regression" if len(_checkpoint_classes(local)) == 1 else "single_label_classification"))


def _is_same_task(local: LocalCheckpoint, model: PreTrainedModel) -> bool:
    own = TOKENS if is_token_classifier(model) else model.config.problem_type
    return _problem_type(local) == own


def _outputs(local: LocalCheckpoint, names: Sequence[str]) -> str:
    """Return what a checkpoint's head is for: `5 classes`."""
    forms = NOUNS.get(_problem_type(local), ("class", "classes"))
    return counted(len(names), *forms)


def _other_head(local: LocalCheckpoint, model: PreTrainedModel, names: Sequence[str]) -> str:
    """Describe what becomes of a checkpoint whose head is for other labels, or for those of another task."""
    some = ", ".join((*names[:5], "...") if len(names) > 5 else names)
    if _is_same_task(local, model):
        count, _, noun = _outputs(local, names).partition(" ")
        return f"{local.name}: its head was for {count} other {noun} ({some}) and is replaced"
    return (
        f"{local.name}: trained for another task, {_outputs(local, names)} ({some}): its encoder is used, and its head "
        "is replaced"
    )
