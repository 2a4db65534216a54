"""The config of a checkpoint, and the model that it describes, checked before any weight is read."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from hf_finetune.errors import InputError
from hf_finetune.models.checkpoint import LocalCheckpoint
from hf_finetune.models.checkpoint_files import check_layers
from hf_finetune.models.contexts import input_errors, quiet
from hf_finetune.models.from_config import FIELD, check_buildable, resized
from hf_finetune.models.surgery.operations import SurgeryStep, config_after
from hf_finetune.utils.messages import short

Task = Literal["text-classification", "image-classification", "token-classification"]
ProblemType = Literal[
    "single_label_classification",
    "multi_label_classification",
    "regression",
    "token_classification",
    "named_entity_recognition",
]
AUTO_CLASS: dict[Task, Any] = {
    "text-classification": AutoModelForSequenceClassification,
    "image-classification": AutoModelForImageClassification,
    "token-classification": AutoModelForTokenClassification,
}
# Weights that need no comparison with the files: 200 MB.
ALWAYS_FITS = 50_000_000
# What a task reads, what its models are called, and examples of them.
MODALITY = {
    "text-classification": ("texts", "a text model", "bert, roberta, distilbert, deberta, electra or modernbert"),
    "image-classification": ("images", "an image model", "vit, deit, dinov2, swin, beit, convnext or resnet"),
    "token-classification": ("words", "a model of words", "bert, roberta, distilbert, deberta, electra or modernbert"),
}


def load_config(local: LocalCheckpoint, from_config: Mapping[str, Any] | None = None) -> PreTrainedConfig:
    """Load the config of a checkpoint.

    Args:
        from_config: fields to change, see `from_config.resized`.

    Raises:
        InputError: the config is invalid.
    """
    with input_errors(f"{local.name}: config.json cannot be used"), quiet():
        config = AutoConfig.from_pretrained(local.folder, trust_remote_code=local.trust_remote_code)
    check_layers(config.to_dict(), local.limits.max_layers, local.stored, f"{local.name}: config.json: ")
    if from_config is None:
        return config
    changed = resized(config, from_config)
    check_layers(changed.to_dict(), local.limits.max_layers, None, f"{FIELD}.")
    return changed


def check_size(local: LocalCheckpoint, config: PreTrainedConfig, task: Task) -> None:
    """Refuse a config that describes a network far larger than its weights, before memory is allocated for it.

    Raises:
        InputError: naming both sizes; or the library cannot build the network.
    """
    if local.stored is None or local.config.get("auto_map"):
        return
    with input_errors(f"{local.name}: config.json cannot be used"), quiet(), torch.device("meta"):
        model = AUTO_CLASS[task].from_config(config)
    described = sum(parameter.numel() for parameter in model.parameters())
    if described > 2 * local.stored.numbers + ALWAYS_FITS:
        sizes = f"config.json describes {described:,} weights, its files hold {local.stored.numbers:,}"
        raise InputError(f"{local.name}: {sizes}; the two do not belong together")


def classifier_config(
    local: LocalCheckpoint, task: Task, from_config: Mapping[str, Any] | None = None
) -> PreTrainedConfig:
    """Load the config of a checkpoint to be fine-tuned on `task`.

    Raises:
        InputError: see `load_config`; or the family has no classifier for this task.
    """
    config = load_config(local, from_config)
    model, has_code = f"{local.name}: {config.model_type}", config.to_dict().get("auto_map")
    supported = [name for name, auto in AUTO_CLASS.items() if type(config) in auto._model_mapping]
    if not has_code and task not in supported:
        data, _, examples = MODALITY[task]
        what = f"is {MODALITY[supported[0]][1]}, but the data are {data}" if supported else f"classifies no {data}"
        raise InputError(f"{model} {what}; use a {examples} checkpoint")
    decoder = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_MASKED_LM_MAPPING
    if config.is_encoder_decoder or decoder:
        raise InputError(f"{model} generates text; expected an encoder such as bert, roberta or modernbert")
    if config.model_type == "nystromformer" and not has_code and config.num_landmarks != config.segment_means_seq_len:
        # Its attention then splits every text into segments of fixed length, to which transformers does not pad.
        raise InputError(
            f"{local.name}: num_landmarks {config.num_landmarks} needs texts of exactly {config.segment_means_seq_len} "
            "tokens (segment_means_seq_len); set both fields of config.json to the same number, for attention "
            "between all tokens, or use another checkpoint"
        )
    return config


def check_config(
    local: LocalCheckpoint,
    task: Task,
    surgery: Sequence[SurgeryStep] = (),
    from_config: Mapping[str, Any] | None = None,
) -> None:
    """Check changed config fields and surgery against a checkpoint's config, before weights or data are read.

    Raises:
        InputError: see `classifier_config`, `from_config.resized` and `surgery.operations.config_after`.
    """
    if from_config is None and not surgery:
        return
    config = classifier_config(local, task, from_config)
    if from_config is not None:
        check_buildable(config, local.limits.max_parameters)
    config_after(config, surgery)


def meta_classifier(
    local: LocalCheckpoint,
    task: Task,
    surgery: Sequence[SurgeryStep] = (),
    from_config: Mapping[str, Any] | None = None,
) -> PreTrainedModel | None:
    """Build a checkpoint's classifier on the meta device: modules and shapes, but no weights.

    Returns:
        None if the model is remote code, or one that `loading.load_classifier` will refuse.
    """
    if local.config.get("auto_map"):
        return None
    config = load_config(local, from_config)
    if type(config) not in AUTO_CLASS[task]._model_mapping:
        return None
    changed = config_after(config, surgery)
    with input_errors(f"{local.name}: config.json cannot be used"), torch.device("meta"):
        return AUTO_CLASS[task].from_config(changed)


def name_classes(config: PreTrainedConfig, labels: Sequence[str]) -> None:
    """Write the class names to a config, in the order of the label ids."""
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: i for i, name in enumerate(labels)}
    # Derived from the names in most families, but PVT has a field for it.
    config.num_labels = len(labels)


def class_names(checkpoint: str, config: dict[str, Any]) -> list[str]:
    """Return the class names in a config.json, or transformers' default names.

    Raises:
        InputError: the class ids are not 0, 1, 2, ...
    """
    classes = config.get("num_labels")
    names = config.get("id2label") or {i: f"LABEL_{i}" for i in range(classes if isinstance(classes, int) else 2)}
    try:
        by_id = {int(number): str(name) for number, name in names.items()}
    except (AttributeError, ValueError, TypeError):
        by_id = {}
    if not isinstance(names, dict | list):
        raise InputError(f"{checkpoint}: its config.json has no classes in id2label, but {short(names)}")
    if sorted(by_id) != list(range(len(names))):
        some = ", ".join(map(str, list(names)[:5]))
        expected = f"expected 0 to {len(names) - 1}"
        raise InputError(f"{checkpoint}: its config.json numbers its classes {some} in id2label; {expected}")
    return [by_id[number] for number in range(len(names))]


def set_dropout(config: PreTrainedConfig, rate: float) -> int:
    """Set every dropout rate of a config, and return how many there are.

    Families name the fields differently (hidden_dropout_prob, attention_dropout, drop_path_rate), but every name
    contains `drop`. A rate of None (the same as another field) is set too.
    """
    rates = [k for k, v in config.to_dict().items() if "drop" in k and (v is None or type(v) in (int, float))]
    for name in rates:
        setattr(config, name, float(rate))
    return len(rates)
