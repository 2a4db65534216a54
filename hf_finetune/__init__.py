"""Fine-tune text and image classifiers, with evidence for every claim.

A recipe script needs the names below; `run` and what it pulls in are imported when they are first used.
"""

from typing import Any

from hf_finetune.cli.main import main
from hf_finetune.config.recipe import (
    Averaging,
    Batching,
    Distill,
    Evaluate,
    Hub,
    ImageData,
    Launch,
    Lora,
    Model,
    Optim,
    Precision,
    Pretrain,
    Recipe,
    Regularize,
    Supervised,
    TextData,
    Train,
)
from hf_finetune.errors import GateError, InputError, PushError, StoppedBySignal, TrainingError

__all__ = [
    "Averaging",
    "Batching",
    "Distill",
    "Evaluate",
    "GateError",
    "Hub",
    "ImageData",
    "InputError",
    "Launch",
    "Lora",
    "Model",
    "Optim",
    "Precision",
    "Pretrain",
    "PushError",
    "Recipe",
    "Regularize",
    "StoppedBySignal",
    "Supervised",
    "TextData",
    "Train",
    "TrainingError",
    "main",
    "run",
]


def __getattr__(name: str) -> Any:
    if name == "run":
        from hf_finetune.pipeline.run import run

        return run
    raise AttributeError(f"module 'hf_finetune' has no attribute {name!r}")
