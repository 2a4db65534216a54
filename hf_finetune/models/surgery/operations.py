"""Surgery on a pretrained checkpoint: what `model.surgery` can hold, and how it is done.

An operation is a frozen dataclass. `refuse(config)` writes to a config what the operation changes in it, or raises what
speaks against it; `model = step(model)` does it. The result is what plain transformers builds from the changed config, so
a saved model loads with nothing of this package.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hf_finetune.models.families import refusal
from hf_finetune.models.surgery.convolutions import SetKernelSize, SetPooling
from hf_finetune.models.surgery.inner import SetActivation, SetAttention, SetDropout
from hf_finetune.models.surgery.layers import (
    AddLayers,
    DropLayers,
    DuplicateLayers,
    KeepLayers,
    LayerStep,
    ReinitTopLayers,
)
from hf_finetune.models.surgery.patches import ResizeImage, ResizePatches
from hf_finetune.models.surgery.positions import ExtendPositions
from hf_finetune.models.surgery.skip_layers import LayerDrop, StochasticDepth
from hf_finetune.models.surgery.width import NarrowHidden, ResizeFeedForward

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

SurgeryStep = (
    KeepLayers
    | DropLayers
    | DuplicateLayers
    | AddLayers
    | ReinitTopLayers
    | ResizeFeedForward
    | NarrowHidden
    | SetActivation
    | SetDropout
    | SetAttention
    | StochasticDepth
    | LayerDrop
    | ResizePatches
    | ResizeImage
    | ExtendPositions
    | SetKernelSize
    | SetPooling
)


def planned(config: PreTrainedConfig, steps: Sequence[SurgeryStep]) -> PreTrainedConfig:
    """The config after all operations, without any weight: what a checkpoint cannot take is refused here.

    Raises:
        InputError: naming the operation, what it expected, and the checkpoint's family; or two operations of a kind that
            can be given once only, or layers that are begun anew before others are taken, added or moved.
    """
    anew = False
    for step in steps:
        anew = anew or isinstance(step, ReinitTopLayers)
        if anew and isinstance(step, LayerStep):
            raise refusal(
                "ReinitTopLayers", f"expected behind {type(step).__name__}, which changes what layers there are"
            )
    for kind in (StochasticDepth, LayerDrop):
        if sum(isinstance(step, kind) for step in steps) > 1:
            raise refusal(kind.__name__, "expected once at most")
    config = copy.deepcopy(config)
    for step in _in_order(steps):
        step.refuse(config)
    return config


def operate(model: PreTrainedModel, steps: Sequence[SurgeryStep]) -> PreTrainedModel:
    """The model after all operations, in their order. New weights are drawn by torch's generator.

    What is only done while training, to the layers that there are in the end, comes last.

    Raises:
        InputError: see `planned`.
    """
    for step in _in_order(steps):
        model = step(model)
    return model


def _in_order(steps: Sequence[SurgeryStep]) -> list[SurgeryStep]:
    """As given, then stochastic depth, then LayerDrop: hooks on layers would not outlive what builds them anew."""
    return sorted(steps, key=lambda step: (isinstance(step, LayerDrop), isinstance(step, StochasticDepth)))
