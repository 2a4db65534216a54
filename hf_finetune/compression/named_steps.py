"""Steps by their names, as `compress --steps vocabulary,feed-forward=0.3,distill` names them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from hf_finetune.compression.formats import Onnx, OnnxInt8, Safetensors
from hf_finetune.compression.pruning.allocation import AllocateFeedForward
from hf_finetune.compression.pruning.feed_forward import PruneFeedForward
from hf_finetune.compression.pruning.gradual import PruneGradually
from hf_finetune.compression.pruning.heads import PruneHeads
from hf_finetune.compression.pruning.hidden_width import PruneHiddenWidth
from hf_finetune.compression.pruning.layers import PruneLayers
from hf_finetune.compression.pruning.unstructured import ZeroWeights
from hf_finetune.compression.pruning.vocabulary import TrimVocabulary
from hf_finetune.compression.recovery import Distill
from hf_finetune.compression.steps import Chain, Step
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import did_you_mean

STEPS: dict[str, tuple[Step, str]] = {
    "vocabulary": (TrimVocabulary(), "spare"),
    "feed-forward": (PruneFeedForward(), "share"),
    "feed-forward-by-layer": (AllocateFeedForward(), "share"),
    "feed-forward-movement": (PruneGradually(part="feed-forward", score="movement"), "share"),
    "feed-forward-gates": (PruneGradually(part="feed-forward", score="gates"), "share"),
    "heads": (PruneHeads(), "share"),
    "heads-movement": (PruneGradually(part="heads", score="movement"), "share"),
    "heads-gates": (PruneGradually(part="heads", score="gates"), "share"),
    "layers": (PruneLayers(), "drop"),
    "hidden-width": (PruneHiddenWidth(), "share"),
    "zero-weights": (ZeroWeights(), "share"),
    "distill": (Distill(), "epochs"),
}
"""A step by its name, and its field that a number sets."""


def named_steps(text: str) -> tuple[Step, ...]:
    """Return the steps that a text such as `vocabulary,feed-forward=0.3,distill` names, in its order.

    Raises:
        InputError: a step is not known or named twice, or its number is none that it can have.
    """
    steps = tuple(_named_step(part.strip()) for part in text.split(","))
    names = [part.partition("=")[0].strip() for part in text.split(",")]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"--steps: {repeated}: expected each step once, got it {names.count(repeated)} times")
    return steps


def chains_of_steps(steps: tuple[Step, ...]) -> tuple[Chain, ...]:
    """Return these steps as candidates, in every format."""
    return tuple(Chain(steps, each) for each in (OnnxInt8(), Onnx(), Safetensors()))


def _named_step(text: str) -> Step:
    name, has_value, value = text.partition("=")
    if name not in STEPS:
        hint = did_you_mean(name, STEPS) or f"; known: {', '.join(STEPS)}"
        raise InputError(f"--steps: {name!r} is no step{hint}")
    step, field = STEPS[name]
    if not has_value:
        return step
    try:
        number: float = int(value) if value.isdecimal() else float(value)
    except ValueError:
        raise InputError(f"--steps: {name}: expected a number after =, got {value!r}") from None
    return replace(cast(Any, step), **{field: number})
