"""From a checkpoint to a classifier in float32."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    DeiTForImageClassificationWithTeacher,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from hf_finetune.errors import InputError
from hf_finetune.models.families import family_of
from hf_finetune.models.from_config import check_buildable, resized
from hf_finetune.models.modules import classification_layers, encoder, head_modules, reorder
from hf_finetune.models.safety import LocalCheckpoint, first_line, inspect_checkpoint, one_line
from hf_finetune.models.surgery.operations import SurgeryStep, operate, planned
from hf_finetune.utils.plain import short_repr

log = logging.getLogger("hf_finetune")

Task = Literal["text-classification", "image-classification"]
AUTO_CLASS = {
    "text-classification": AutoModelForSequenceClassification,
    "image-classification": AutoModelForImageClassification,
}

# Separates the random numbers of surgery from those of the model, both of the run's seed.
SURGERY = 1


@dataclass(frozen=True)
class Loaded:
    """A classifier and what is known from loading it."""

    model: PreTrainedModel
    fresh: tuple[str, ...]
    """Modules with weights that the checkpoint does not have, or has in another shape: they start at random. Of a
    network whose weights are all random, those that sit on the encoder."""
    notes: tuple[str, ...]
    """For the user, each also logged at INFO."""


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and load reports; what matters in these is returned as notes."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    if bars:
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers of the CPU from `seed` inside; the generator goes on as if nothing had happened after."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def load_config(
    local: LocalCheckpoint, trust_remote_code: bool, from_config: Mapping[str, Any] | None = None
) -> PreTrainedConfig:
    """The config of an inspected checkpoint.

    Args:
        from_config: fields to set otherwise, see `from_config.resized`.

    Raises:
        InputError: it cannot be used.
    """
    try:
        with quiet():
            config = AutoConfig.from_pretrained(local.folder, trust_remote_code=trust_remote_code)
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError, OSError, ImportError) as error:
        raise InputError(f"{local.name}: config.json cannot be used: {one_line(error)}") from error
    return config if from_config is None else resized(config, from_config)


def load_classifier(
    checkpoint: str | Path,
    *,
    task: Task,
    labels: Sequence[str],
    revision: str | None = None,
    trust_remote_code: bool = False,
    dropout: float | None = None,
    attn_implementation: Literal["eager", "sdpa"] | None = None,
    seed: int = 0,
    from_config: Mapping[str, Any] | None = None,
    surgery: Sequence[SurgeryStep] = (),
    distilled: bool = False,
    keep_head: bool = True,
) -> Loaded:
    """Load a checkpoint as a single-label classifier with float32 weights, whatever format they are stored in.

    What the checkpoint lacks (the head, and BERT's pooler in some) starts at random from `seed`: two processes get the
    same weights, and torch's global generator is left as it was. A head for the same class names stays, its rows in the
    order of `labels`; one for others is replaced, whatever its size.

    Args:
        labels: class names, the index is the label id.
        dropout: rate of every dropout of the network, stochastic depth included; also written to its config. None: the
            config's.
        attn_implementation: None: eager where there is no accelerator, the library's choice where there is.
        from_config: leave the checkpoint's weights alone and start all of them at random, as pretraining did, in a
            network of its family with these fields of the config set otherwise, see `from_config.resized`.
        surgery: operations on the loaded model; what they draw follows from `seed`, too.
        distilled: of deit, the class with a head on the distillation token as well, see
            `modules.classification_layers`.
        keep_head: False: replace a head for the same classes as well, since pretraining hands over the encoder alone.

    Raises:
        InputError: as `inspect_checkpoint`, and `load_config`; the family has no such classifier, no sdpa attention or
            a dropout that its config does not govern; the weights do not fit the config, or are for another kind of
            model; the surgery's result cannot be expressed in the family's config.
    """
    pretrained = from_config is None
    local = inspect_checkpoint(
        checkpoint, revision=revision, trust_remote_code=trust_remote_code, need_weights=pretrained
    )
    config = load_config(local, trust_remote_code, from_config)
    _check_family(str(checkpoint), config, task)
    _describe_classifier(config, labels, distilled)
    notes = list(local.notes)
    if dropout is not None and not set_dropout(config, dropout):
        notes.append(f"model.dropout: {config.model_type} has no dropout")
    if attn_implementation is None and not torch.accelerator.is_available():
        attn_implementation = "eager"
    planned(config, surgery)
    model, info = _built(local, config, task, trust_remote_code, attn_implementation, seed)
    if dropout is not None:
        _check_dropout(model, dropout)
    if pretrained:
        fresh, more = _compare_weights(local, model, info, seed, keep_head)
        notes += more
    else:
        fresh = tuple(head_modules(model))
        notes.append(f"{local.name}: none of its weights is used, all start at random from seed {seed}")
    if surgery:
        # Not from `seed` itself: a checkpoint may have been made from it, and new layers would be what they were.
        with seeded(int(np.random.SeedSequence([seed, SURGERY]).generate_state(1)[0])), quiet():
            model = operate(model, surgery)
        fresh = tuple(name for name, _ in model.named_modules() if name in fresh)
        notes.append(f"{local.name}: after surgery: {', '.join(map(short_repr, surgery))}")
    # So that adapters and cards name the checkpoint, not the place in the cache it was read from.
    model.name_or_path = model.config.name_or_path = local.name
    for note in notes:
        log.info(note)
    return Loaded(model, fresh, tuple(notes))


def check_config(
    checkpoint: str | Path,
    *,
    from_config: Mapping[str, Any] | None = None,
    surgery: Sequence[SurgeryStep] = (),
    task: Task,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Refuse sizes and operations that the checkpoint's config cannot express, before any weight or row is read.

    Raises:
        InputError: see `from_config.resized` and `surgery.operations.planned`; or as `load_classifier`, of the family.
    """
    if from_config is None and not surgery:
        return
    local = inspect_checkpoint(
        checkpoint, revision=revision, trust_remote_code=trust_remote_code, need_weights=from_config is None
    )
    config = load_config(local, trust_remote_code, from_config)
    _check_family(str(checkpoint), config, task)
    if from_config is not None:
        check_buildable(config)
    planned(config, surgery)


def _check_family(checkpoint: str, config: PreTrainedConfig, task: Task) -> None:
    kind, has_code = config.model_type, config.to_dict().get("auto_map")
    texts = type(config) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    images = type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    if not has_code and task == "image-classification" and not images:
        what = "is a text model, but the data are images" if texts else "classifies no images"
        expected = "vit, deit, dinov2, swin, beit, convnext or resnet"
        raise InputError(f"{checkpoint}: {kind} {what}; use a {expected} checkpoint")
    if not has_code and task == "text-classification" and not texts:
        what = "is an image model, but the data are texts" if images else "classifies no texts"
        expected = "bert, roberta, distilbert, deberta, electra or modernbert"
        raise InputError(f"{checkpoint}: {kind} {what}; use a {expected} checkpoint")
    decoder = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_MASKED_LM_MAPPING
    if config.is_encoder_decoder or decoder:
        raise InputError(
            f"{checkpoint}: {kind} generates text; expected an encoder such as bert, roberta or modernbert"
        )
    if kind == "nystromformer" and not has_code and config.num_landmarks != config.segment_means_seq_len:
        # Its attention then cuts every text into segments of one length, and transformers fills up none.
        raise InputError(
            f"{checkpoint}: num_landmarks {config.num_landmarks} takes texts of exactly {config.segment_means_seq_len} "
            "tokens (segment_means_seq_len) alone; set both fields of config.json to the same number, for attention "
            "between all tokens, or use another checkpoint"
        )


def _describe_classifier(config: PreTrainedConfig, labels: Sequence[str], distilled: bool) -> None:
    name_classes(config, labels)
    config.problem_type = "single_label_classification"
    if not config.to_dict().get("auto_map"):
        # Whatever a checkpoint names: a family's first class is the plain one, and DeiT's other one is for students.
        config.architectures = [DeiTForImageClassificationWithTeacher.__name__] if distilled else []


def name_classes(config: PreTrainedConfig, labels: Sequence[str]) -> None:
    """Write the classes' names to a config, the index is the label id."""
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: i for i, name in enumerate(labels)}
    # Follows from the names, but PVT's is a field of its own.
    config.num_labels = len(labels)


def _built(
    local: LocalCheckpoint,
    config: PreTrainedConfig,
    task: Task,
    trust_remote_code: bool,
    attn_implementation: str | None,
    seed: int,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model with the checkpoint's weights, or with first ones, and the loader's report of missing weights."""
    auto, options = AUTO_CLASS[task], {"dtype": torch.float32, "attn_implementation": attn_implementation}
    try:
        with quiet(), seeded(seed):
            if not local.weights:
                return auto.from_config(config, **options), {}
            return auto.from_pretrained(
                local.folder,
                config=config,
                ignore_mismatched_sizes=True,
                weights_only=True,
                output_loading_info=True,
                trust_remote_code=trust_remote_code,
                **options,
            )
    except (ValueError, RuntimeError, TypeError, KeyError, OSError, ImportError) as error:
        message = f"{local.name}: cannot be loaded as a classifier: {first_line(error)}"
        if attn_implementation == "sdpa" and "scaled_dot_product_attention" in str(error):
            message = f"model.attn_implementation: {config.model_type} has no sdpa attention; expected eager"
        raise InputError(message) from error


def class_names(checkpoint: str, config: dict[str, Any]) -> list[str]:
    """Names of the classes in a config.json; as transformers has them where there are none.

    Raises:
        InputError: the classes are not numbered from 0 on.
    """
    names = config.get("id2label") or {0: "LABEL_0", 1: "LABEL_1"}
    try:
        by_number = {int(number): str(name) for number, name in names.items()}
    except (AttributeError, ValueError):
        by_number = {}
    if sorted(by_number) != list(range(len(names))):
        some = ", ".join(map(str, list(names)[:5]))
        expected = f"expected 0 to {len(names) - 1}"
        raise InputError(f"{checkpoint}: its config.json numbers its classes {some} in id2label; {expected}")
    return [by_number[number] for number in range(len(names))]


def _classes_of_head(local: LocalCheckpoint) -> list[str]:
    """As `class_names`; where classes are numbered otherwise it is unknown whose weights are whose: none are ours."""
    try:
        return class_names(local.name, local.config)
    except InputError:
        names = local.config["id2label"]
        numbered = names.items() if isinstance(names, dict) else enumerate(names)
        return [f"{number}: {name}" for number, name in numbered]


def set_dropout(config: PreTrainedConfig, rate: float) -> int:
    """Set every dropout rate of the config, unset ones included (None means: as another); return their number.

    The families name them differently (hidden_dropout_prob, attention_dropout, drop_path_rate), but all with `drop`.
    """
    rates = [k for k, v in config.to_dict().items() if "drop" in k and (v is None or type(v) in (int, float))]
    for name in rates:
        setattr(config, name, float(rate))
    return len(rates)


def _check_dropout(model: PreTrainedModel, rate: float) -> None:
    family = family_of(model.config)
    for name, module in model.named_modules():
        if family is not None and family.graded_dropout is not None and name.endswith(f".{family.graded_dropout}"):
            continue
        if isinstance(module, nn.Dropout | nn.Dropout1d | nn.Dropout2d) and not math.isclose(module.p, rate):
            raise InputError(
                f"model.dropout: {name} keeps its own rate of {module.p}; "
                f"leave model.dropout unset for {model.config.model_type}"
            )


def _compare_weights(
    local: LocalCheckpoint, model: PreTrainedModel, info: dict[str, Any], seed: int, keep_head: bool
) -> tuple[tuple[str, ...], list[str]]:
    """Owners of the weights that start at random, and notes; refuses a checkpoint with another encoder."""
    mismatched = {key: (theirs, ours) for key, theirs, ours in info["mismatched_keys"]}
    missing = {key for key in info["missing_keys"] if not key.endswith("num_batches_tracked")}
    _check_encoder(local, model, mismatched, missing)
    owners = {key.rpartition(".")[0] for key in missing | mismatched.keys()}
    fresh = tuple(name for name, _ in model.named_modules() if name in owners)
    notes = []
    if mismatched:
        notes.append(_replaced(local, _classes_of_head(local)))
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
    local: LocalCheckpoint,
    model: PreTrainedModel,
    mismatched: Mapping[str, tuple[Sequence[int], Sequence[int]]],
    missing: set[str],
) -> None:
    """Refuse encoder weights of another shape, or hardly any; warn where some are missing."""
    name, prefix = local.name, f"{model.base_model_prefix}."
    for key, (theirs, ours) in sorted(mismatched.items()):
        if key.startswith(prefix):
            shapes = f"has the shape {list(theirs)}, its config.json says {list(ours)}"
            raise InputError(f"{name}: {key} {shapes}; the two do not belong together")
    body = [f"{prefix}{key}" for key, _ in encoder(model).named_parameters()]
    lost = [key for key in body if key in missing]
    if len(lost) == len(body):
        raise InputError(f"{name}: none of its weights fits {type(model).__name__}; is this another kind of model?")
    if len(lost) > len(body) / 2:
        raise InputError(
            f"{name}: {len(lost)} of {len(body)} encoder weights are missing ({lost[0]}, ...); "
            "the file and config.json do not belong together"
        )
    inner = [key for key in lost if "pooler" not in key]
    if inner:
        what = "encoder weights are missing and start at random"
        log.warning("%s: %d of %d %s (%s, ...)", name, len(inner), len(body), what, inner[0])


def _match_head(
    local: LocalCheckpoint, model: PreTrainedModel, fresh: tuple[str, ...], seed: int, keep_head: bool
) -> tuple[tuple[str, ...], str]:
    """Use the checkpoint's head for the same classes, by name, or start another; new modules and a note.

    Args:
        fresh: modules that the checkpoint does not have.
    """
    theirs, ours = _classes_of_head(local), list((model.config.id2label or {}).values())
    same = theirs == ours or (len(set(theirs)) == len(theirs) and sorted(theirs) == sorted(ours))
    layers = classification_layers(model)
    if same and keep_head:
        note = f"{local.name}: it has a head for these {len(theirs)} classes"
        if theirs != ours:
            reorder(layers, [theirs.index(name) for name in ours])
            note += ", in another order than the data's; they are matched by name"
        return fresh, note
    # As many classes, but others: their weights must not decide about ours.
    with seeded(seed):
        for layer in layers:
            layer.reset_parameters()
    names = tuple(name for name, module in model.named_modules() if name in fresh or module in layers)
    if not same:
        return names, _replaced(local, theirs)
    why = "what is pretrained is the encoder alone"
    return names, f"{local.name}: its head for {len(theirs)} classes is replaced: {why}"


def _replaced(local: LocalCheckpoint, classes: Sequence[str]) -> str:
    some = ", ".join((*classes[:5], "...") if len(classes) > 5 else classes)
    return f"{local.name}: its head was for {len(classes)} other classes ({some}) and is replaced"
