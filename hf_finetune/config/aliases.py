"""Old names of flags, fields and types, so that old recipe.json, YAML files and commands keep working.

Each renamed one keeps its line here for good.
"""

import re
from collections.abc import Sequence
from typing import Any

FIELDS: dict[str, str] = {
    "unlabelled": "unlabeled",
    "data.unlabelled": "unlabeled",
    "data.augment.colour": "color_jitter",
    "ThreeAugment.colour": "color_jitter",
    "pretrain.objective.normalise": "normalize",
    "MAE.normalise": "normalize",
}
"""Current field names, by dotted old name without list indices, or by operation and old name."""
TYPES: dict[str, str] = {"Colour": "ColorJitter", "Sequence": "Compose"}
"""Current class names, by old name, in files and in Python (`hf_finetune.Sequence`)."""
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


def current_flags(arguments: Sequence[str]) -> list[str]:
    """Replace old flags in the arguments of a command."""
    return [_current_flag(argument) if argument.startswith("--") else argument for argument in arguments]


def _current_flag(argument: str) -> str:
    flag, equals, value = argument.partition("=")
    section, dot, name = flag.removeprefix("--").rpartition(".")
    negated = "no-" if name.startswith("no-") else ""
    field = re.sub(r"\.\d+(?=\.)", "", f"{section}{dot}{name.removeprefix('no-')}".replace("-", "_"))
    new = FIELDS.get(field)
    return argument if new is None else f"--{section}{dot}{negated}{new.replace('_', '-')}{equals}{value}"
