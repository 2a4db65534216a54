"""The candidates of `compress`: sensible chains of steps and a format, the most promising first."""

from __future__ import annotations

from hf_finetune.compression.formats import Onnx, OnnxInt8, Safetensors
from hf_finetune.compression.steps import Chain, Format, Step
from hf_finetune.tasks.trained_model import TrainedModel

FLOAT: Format = Safetensors()


def chains_of(classifier: TrainedModel) -> tuple[Chain, ...]:
    """Return the candidates for a classifier, in the order in which they are tried: with little time the last ones are
    left out."""
    prunings: tuple[tuple[Step, ...], ...] = ((),)
    return tuple(
        Chain(steps, each) for steps in prunings for each in (OnnxInt8(), Onnx(), FLOAT) if steps or each != FLOAT
    )
