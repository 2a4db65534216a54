"""Other names of flags, fields and types: old ones, so that old recipe.json, YAML files and commands keep working, and
those of other tools, for flags and for keywords of Python.

Each renamed one keeps its line here for good.
"""

import re
from collections.abc import Container, Sequence
from typing import Any

FIELDS: dict[str, str] = {
    "unlabelled": "unlabeled",
    "data.unlabelled": "unlabeled",
    "data.augment.colour": "color_jitter",
    "ThreeAugment.colour": "color_jitter",
    "data.limits.image_texts": "image_reads",
    "pretrain.objective.normalise": "normalize",
    "MAE.normalise": "normalize",
}
"""Current field names, by dotted old name without list indices, or by operation and old name."""
TYPES: dict[str, str] = {"Colour": "ColorJitter", "Sequence": "Compose"}
"""Current class names, by old name, in files and in Python (`hf_finetune.Sequence`)."""
NAMES: dict[str, str] = {
    "lr": "learning_rate",
    "batch_size": "per_device_train_batch_size",
    "num_epochs": "num_train_epochs",
    "warmup": "warmup_steps",
    "scheduler": "lr_scheduler_type",
    "max_seq_length": "max_length",
    "text_column": "text",
    "text_pair_column": "text_pair",
    "image_column": "image",
    "label_column": "label",
    "output_dir": "output",
}
"""Names of flags and keywords, by a name that other tools have for them."""
HOLD_OPERATIONS = {"augment", "steps", "choices", "phases", "operation", "type"}


def current(plain: Any, field: str = "", kind: str = "") -> Any:
    """Replace old names in plain values of a recipe, from a file or a flag.

    Args:
        field: dotted name of the field that holds the values.
        kind: type of the operation that the field belongs to.
    """
    name = field.rpartition(".")[2]
    if isinstance(plain, list):
        return [current(item, field, kind) for item in plain]
    if isinstance(plain, str) and name in HOLD_OPERATIONS:
        return TYPES.get(plain, plain)
    if not isinstance(plain, dict):
        return plain
    kind = str(plain.get("type", ""))
    renamed = {}
    for key, value in plain.items():
        name = str(key).replace("-", "_")
        dotted = f"{field}.{name}" if field else name
        new_name = FIELDS.get(dotted) or FIELDS.get(f"{kind}.{name}") or name
        renamed[new_name] = current(value, dotted, kind)
    return renamed


def current_flags(arguments: Sequence[str], own: Container[str] = ()) -> list[str]:
    """Replace old flags, those of other tools, and underscores in the arguments of a command.

    Args:
        own: names of flags of this command that mean something of their own.
    """
    return [_current_flag(argument, own) if argument.startswith("--") else argument for argument in arguments]


def _current_flag(argument: str, own: Container[str]) -> str:
    flag, equals, value = argument.partition("=")
    section, dot, name = flag.removeprefix("--").replace("-", "_").rpartition(".")
    negated = "no_" if name.startswith("no_") else ""
    name = name.removeprefix("no_")
    field = re.sub(r"\.\d+(?=\.)", "", f"{section}{dot}{name}")
    if not (section or name in own):
        name = NAMES.get(name, name)
    return f"--{section}{dot}{negated}{FIELDS.get(field, name)}".replace("_", "-") + f"{equals}{value}"
