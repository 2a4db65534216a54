"""Surgery on a pretrained checkpoint: the operations that `model.surgery` can hold, and how they are done.

An operation is a frozen dataclass, each in a module of its own. `update_config(config)` writes to a config what the
operation changes in it, or raises what speaks against it; `model = step(model)` does it. The result is what plain
transformers builds from the changed config, so a saved model loads with nothing of this package.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hf_finetune.models.surgery.activation import SetActivation
from hf_finetune.models.surgery.attention import SetAttention
from hf_finetune.models.surgery.dropout import SetDropout
from hf_finetune.models.surgery.feed_forward import ResizeFeedForward
from hf_finetune.models.surgery.hidden_width import NarrowHidden
from hf_finetune.models.surgery.kernel_size import SetKernelSize
from hf_finetune.models.surgery.layers import AddLayers, DropLayers, DuplicateLayers, KeepLayers, LayerStep
from hf_finetune.models.surgery.patches import ResizeImage, ResizePatches
from hf_finetune.models.surgery.pooling import SetPooling
from hf_finetune.models.surgery.positions import ExtendPositions
from hf_finetune.models.surgery.reinit import ReinitTopLayers
from hf_finetune.models.surgery.stochastic_depth import LayerDrop, StochasticDepth

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
        InputError: naming the operation, what it expected, and the checkpoint's family; or two operations of a kind
            that can stand once only, or layers that are started anew before others are dropped, added or moved.
    """
    reinit = None
    for step in steps:
        reinit = step if isinstance(step, ReinitTopLayers) else reinit
        if reinit is not None and isinstance(step, LayerStep):
            raise reinit.refusal(f"expected behind {type(step).__name__}, which changes what layers there are")
    for kind in (StochasticDepth, LayerDrop):
        alike = [step for step in steps if isinstance(step, kind)]
        if len(alike) > 1:
            raise alike[1].refusal("expected once at most")
    config = copy.deepcopy(config)
    for step in _in_order(steps):
        step.update_config(config)
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
    """The steps, then stochastic depth, then LayerDrop: hooks on layers would not outlive what builds them anew."""
    return sorted(steps, key=lambda step: (isinstance(step, LayerDrop), isinstance(step, StochasticDepth)))
