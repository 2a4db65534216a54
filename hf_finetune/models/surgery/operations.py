"""Surgery on a pretrained checkpoint: the operations that `model.surgery` accepts, and how to apply them.

An operation is a config class in a module of its own. `step.update_config(config)` changes a config or refuses it;
`model = step(model)` changes a model. A saved result loads with plain transformers, since its class builds the same
model from the changed config.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hf_finetune.models.surgery.activation import SetActivation
from hf_finetune.models.surgery.attention import SetAttention
from hf_finetune.models.surgery.dropout import SetDropout
from hf_finetune.models.surgery.feed_forward import ResizeFeedForward
from hf_finetune.models.surgery.gather_mean import GatherMean
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
    | GatherMean
)


def config_after(config: PreTrainedConfig, steps: Sequence[SurgeryStep]) -> PreTrainedConfig:
    """Return the config after all operations; this checks them without any weights.

    Raises:
        InputError: the family cannot express an operation; StochasticDepth or LayerDrop occurs twice; or
            ReinitTopLayers comes before an operation that changes the number of layers.
    """
    reinit = None
    for step in steps:
        reinit = step if isinstance(step, ReinitTopLayers) else reinit
        if reinit is not None and isinstance(step, LayerStep):
            raise reinit.refusal(f"expected after {type(step).__name__}, which changes the layers")
    for kind in (StochasticDepth, LayerDrop):
        alike = [step for step in steps if isinstance(step, kind)]
        if len(alike) > 1:
            raise alike[1].refusal("expected at most once")
    config = copy.deepcopy(config)
    for step in _in_order(steps):
        step.update_config(config)
    return config


def apply_surgery(model: PreTrainedModel, steps: Sequence[SurgeryStep]) -> PreTrainedModel:
    """Apply all operations in order, StochasticDepth and LayerDrop last. torch's generator draws new weights.

    Raises:
        InputError: see `config_after`.
    """
    for step in _in_order(steps):
        model = step(model)
    return model


def _in_order(steps: Sequence[SurgeryStep]) -> list[SurgeryStep]:
    """Move StochasticDepth and LayerDrop to the end: later operations would build layers without their hooks."""
    return sorted(steps, key=lambda step: (isinstance(step, LayerDrop), isinstance(step, StochasticDepth)))
