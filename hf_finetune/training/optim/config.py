"""The optimizers that a recipe can name, each in a file of its own."""

from __future__ import annotations

import importlib.util
from typing import TypeAlias

from hf_finetune.errors import InputError
from hf_finetune.training.optim.adafactor import Adafactor
from hf_finetune.training.optim.adamw import AdamW
from hf_finetune.training.optim.adamw_8bit import AdamW8bit
from hf_finetune.training.optim.adan import Adan
from hf_finetune.training.optim.lion import Lion
from hf_finetune.training.optim.muon import Muon
from hf_finetune.training.optim.schedule_free import ScheduleFree
from hf_finetune.training.optim.sgd import SGD

Optimizer: TypeAlias = AdamW | SGD | Adafactor | Lion | Muon | ScheduleFree | AdamW8bit | Adan


def check_installed(optimizer: Optimizer) -> None:
    """Refuse an optimizer whose package is not there.

    Raises:
        InputError: naming it, and how it is installed.
    """
    name, package = type(optimizer).__name__, optimizer.package
    if package is not None and importlib.util.find_spec(package) is None:
        raise InputError(f"optim.optimizer: {name} needs {package}: pip install {package}, or use AdamW")
