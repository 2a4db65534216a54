"""Old names that users typed, and what they are called now: recipe.json, YAML files and flags of before go on working.

A renamed flag, field or `type:` has its line here for good.
"""

from __future__ import annotations

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
"""By dotted name, without places in lists (`data.augment.colour`), or behind the operation (`ThreeAugment.colour`)."""
TYPES: dict[str, str] = {"Colour": "ColorJitter", "Sequence": "Compose"}
"""By class name, in files and in Python (`hf_finetune.Sequence`)."""
HOLD_OPERATIONS = {"augment", "steps", "choices", "phases", "operation", "type"}


def current(plain: Any, field: str = "", kind: str = "") -> Any:
    """Return plain values of a recipe, as a file or a flag has them, with old names exchanged for current ones.

    Args:
        field: dotted name of the field that holds them.
        kind: the operation whose field it is.
    """
    name = field.rpartition(".")[2]
    if isinstance(plain, list):
        return [current(item, field, kind) for item in plain]
    if isinstance(plain, str) and name in HOLD_OPERATIONS:
        return TYPES.get(plain, plain)
    if not isinstance(plain, dict):
        return plain
    kind = str(plain.get("type", ""))
    changed = {}
    for key, value in plain.items():
        own = str(key).replace("-", "_")
        dotted = f"{field}.{own}" if field else own
        new = FIELDS.get(dotted) or FIELDS.get(f"{kind}.{own}") or own
        changed[new] = current(value, dotted, kind)
    return changed


def current_flags(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of a command with old flags exchanged for current ones."""
    return [_current_flag(argument) if argument.startswith("--") else argument for argument in arguments]


def _current_flag(argument: str) -> str:
    flag, equals, value = argument.partition("=")
    section, dot, name = flag.removeprefix("--").rpartition(".")
    negated = "no-" if name.startswith("no-") else ""
    field = re.sub(r"\.\d+(?=\.)", "", f"{section}{dot}{name.removeprefix('no-')}".replace("-", "_"))
    new = FIELDS.get(field)
    return argument if new is None else f"--{section}{dot}{negated}{new.replace('_', '-')}{equals}{value}"
