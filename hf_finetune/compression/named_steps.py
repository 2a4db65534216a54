"""Steps by their names, as `compress --steps vocabulary,feed-forward=0.3,distill,int8` names them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from hf_finetune.compression.export_formats.onnx import Onnx as OnnxExport
from hf_finetune.compression.formats import Onnx, Safetensors
from hf_finetune.compression.pruning.allocation import AllocateFeedForward
from hf_finetune.compression.pruning.feed_forward import PruneFeedForward
from hf_finetune.compression.pruning.gradual import PruneGradually
from hf_finetune.compression.pruning.heads import PruneHeads
from hf_finetune.compression.pruning.hidden_width import PruneHiddenWidth
from hf_finetune.compression.pruning.layers import PruneLayers
from hf_finetune.compression.pruning.unstructured import ZeroWeights
from hf_finetune.compression.pruning.vocabulary import TrimVocabulary
from hf_finetune.compression.quantization.aware_training import DistillQuantized
from hf_finetune.compression.recovery import Distill
from hf_finetune.compression.steps import Chain, Format, Step
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
    "qat-int8": (DistillQuantized(weights="int8"), "epochs"),
    "qat-int4": (DistillQuantized(weights="int4"), "epochs"),
}
"""A step by its name, and its field that a number sets."""


def named_chains(text: str) -> tuple[Chain, ...]:
    """Return the candidates of steps such as `vocabulary,feed-forward=0.3,distill` or `layers,distill,int8=0.5`.

    The last one may be the number format, with a number for `Onnx.smooth`. Else there is a candidate in each format for
    which quantization-aware training prepares; without it one in int8, and in float32 a graph and a checkpoint.

    Raises:
        InputError: a step is not known or named twice, or its number is none that it can have; or quantization-aware
            training is not the last step.
    """
    parts = [part.strip() for part in text.split(",")]
    named = _named_format(parts[-1])
    steps = tuple(map(_named_step, parts if named is None else parts[:-1]))
    names = [part.partition("=")[0].strip() for part in parts]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"--steps: {repeated}: expected each step once, got it {names.count(repeated)} times")
    for step, name, following in zip(steps[:-1], names, names[1:], strict=False):
        # What follows changes the weights that it has prepared.
        if isinstance(step, DistillQuantized):
            raise InputError(f"--steps: {name}: expected it as the last step, got {following} after it")
    return tuple(Chain(steps, each) for each in (_formats_after(steps) if named is None else (named,)))


def _formats_after(steps: tuple[Step, ...]) -> tuple[Format, ...]:
    prepared = next((step.formats for step in steps if isinstance(step, DistillQuantized)), None)
    return prepared or (Onnx("int8"), Onnx(), Safetensors())


def _named_format(text: str) -> Format | None:
    """Return a number format. None: it is the name of none."""
    name, has_value, value = text.partition("=")
    weights = next((each for each in OnnxExport.numbers if each == name), None)
    if weights is None:
        return None
    if not has_value:
        return Safetensors() if weights == "float32" else Onnx(weights)
    if not weights.startswith("int8"):
        raise InputError(f"--steps: {name}: expected no number after it, got {value!r}")
    return Onnx(weights, smooth=_number(name, value))


def _named_step(text: str) -> Step:
    name, has_value, value = text.partition("=")
    if name in OnnxExport.numbers:
        raise InputError(f"--steps: {name}: expected a number format at the end alone, after the steps")
    if name not in STEPS:
        hint = (
            did_you_mean(name, STEPS) or f"; known: {', '.join(STEPS)}, and at the end {', '.join(OnnxExport.numbers)}"
        )
        raise InputError(f"--steps: {name!r} is no step{hint}")
    step, field = STEPS[name]
    return replace(cast(Any, step), **{field: _number(name, value)}) if has_value else step


def _number(name: str, value: str) -> float:
    try:
        return int(value) if value.isdecimal() else float(value)
    except ValueError:
        raise InputError(f"--steps: {name}: expected a number after =, got {value!r}") from None
