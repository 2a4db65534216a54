"""Quantization-aware training: the weights train by the logits of the source while the forward pass rounds them.

Legend: N outputs and K inputs of a layer, G blocks of its inputs.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from hf_finetune.compression.formats import Onnx
from hf_finetune.compression.pruning.networks import why_fixed
from hf_finetune.compression.quantization.linear_layers import after_the_encoder, linear_layers
from hf_finetune.compression.quantization.methods import BLOCK
from hf_finetune.compression.quantization.sensitivity import rounded_inputs
from hf_finetune.compression.recovery import Distill, TrainingHook
from hf_finetune.compression.steps import Format, StepRows
from hf_finetune.compression.tracing import quiet_export
from hf_finetune.errors import InputError
from hf_finetune.tasks.trained_model import TrainedModel
from hf_finetune.utils.config import Epochs, Positive, configclass
from hf_finetune.utils.messages import install_command

if TYPE_CHECKING:
    from torchao.quantization.qat import FakeQuantizedLinear

RoundedWeights = Literal["int8", "int4"]


@configclass
class DistillQuantized(Distill):
    """Train as `Distill` does, with a forward pass that computes with the rounded values of a number format.

    Gradients pass the rounding as if it were not there (Jacob et al. 2018, https://arxiv.org/abs/1712.05877). Only the
    layers that the format rounds take part, those of the encoder. torchao swaps them for the training; afterwards it is
    the same network, whose weights lose less by the rounding. The step comes last: what follows changes the weights.
    """

    name = "qat"
    weights: RoundedWeights = "int8"
    """What is rounded. int8: weights by channel, and the inputs of each layer by batch, for the formats int8 and
    int8-static. int4: weights in blocks of 32, for int4-weights."""
    epochs: Epochs = 3.0
    """As `Distill.epochs`; nothing was removed that more of them would have to make up for."""
    learning_rate: Positive = 2e-5
    """As `Distill.learning_rate`. One epoch of 1,501 rows of banking77 changed the squared difference of a MiniLM's
    logits, on 500 other rows, in int4 from .090 to .031, and in int8 from .034 to .026; at 5e-5 to .034 and .033, and
    at the 2e-4 of `Distill` in int4 to .142."""

    @property
    def label(self) -> str:
        """`qat-int4`, with the numbers that are not the default ones."""
        return super().label.replace(self.name, f"{self.name}-{self.weights}", 1)

    @property
    def formats(self) -> tuple[Format, ...]:
        """The formats that it prepares for."""
        return (Onnx("int8"), Onnx("int8-static")) if self.weights == "int8" else (Onnx("int4-weights"),)

    def refusal(self, classifier: TrainedModel) -> str | None:
        """Refuse what cannot be trained, or has nothing to round; torchao has to be installed."""
        if (why := why_fixed(classifier)) is not None:
            return why
        if find_spec("torchao") is None:
            return f"{self.label} needs the package torchao; {install_command('quantize')}"
        return None if _rounded_layers(classifier.model, self.weights) else "its encoder has no linear layers to round"

    def apply(self, classifier: TrainedModel, rows: StepRows) -> TrainedModel:
        """Return the trained classifier."""
        student = replace(classifier, model=copy.deepcopy(classifier.model))
        with fake_quantized(student.model, self.weights) as scales:
            self.train(student, rows, scales)
        return student


class WeightScales(TrainingHook):
    """Gives each layer the scales that ONNX Runtime would give its weights as they are now.

    Those of torchao spread from -128 to 127 and from -8 to 7, so that other values would be the nearest ones.
    """

    def __init__(self, layers: Sequence[FakeQuantizedLinear], weights: RoundedWeights) -> None:
        self.layers, self.scales_of = layers, int8_scales if weights == "int8" else int4_scales

    @torch.no_grad()
    def before_step(self, done: float) -> None:
        """See `TrainingHook`."""
        for layer in self.layers:
            quantizer = layer.weight_fake_quantizer
            quantizer.scale = self.scales_of(layer.weight)
            quantizer.zero_point = torch.zeros_like(quantizer.scale, dtype=torch.int32)


def int8_scales(weights_NK: torch.Tensor) -> torch.Tensor:
    """Return the scales of the channels, (N, 1): 127 is the largest absolute weight."""
    return _no_zeros(weights_NK.abs().amax(1, keepdim=True) / 127)


def int4_scales(weights_NK: torch.Tensor) -> torch.Tensor:
    """Return the scales of blocks of `BLOCK` weights, (N, G): -8 is the weight that is largest in absolute value, so
    that the scale is negative where this one is positive."""
    blocks_NGB = weights_NK.unflatten(1, (-1, BLOCK))
    largest_NG = blocks_NGB.gather(2, blocks_NGB.abs().argmax(2, keepdim=True)).squeeze(2)
    return _no_zeros(largest_NG / -8)


def _no_zeros(scales: torch.Tensor) -> torch.Tensor:
    return scales.masked_fill(scales == 0, 1.0)


@contextmanager
def fake_quantized(network: nn.Module, weights: RoundedWeights) -> Iterator[WeightScales]:
    """Compute the encoder's linear layers with rounded weights, and in int8 with rounded inputs, within the block.

    Yields:
        The scales, for the training: they follow the weights at each `before_step`, the first of which is done.

    Raises:
        InputError: torchao is too old.
    """
    with quiet_export():  # it prints which of its kernels this machine lacks
        try:
            from torchao.quantization import quantize_
            from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig
        except ImportError as error:
            raise InputError(f"torchao: {error}; {install_command('quantize')}") from None
    if weights == "int8":
        config = IntxFakeQuantizeConfig(torch.int8, "per_channel", is_dynamic=False)
    else:
        config = IntxFakeQuantizeConfig(torch.int4, group_size=BLOCK, is_dynamic=False)  # type: ignore[attr-defined]
    names = _rounded_layers(network, weights)
    quantize_(network, QATConfig(weight_config=config, step="prepare"), lambda _, name: name in names)
    layers = [network.get_submodule(name) for name in names]
    inputs = layers if weights == "int8" else []
    hooks = [layer.register_forward_pre_hook(lambda _, values: (rounded_inputs(values[0]),)) for layer in inputs]
    scales = WeightScales(layers, weights)
    scales.before_step(0.0)
    try:
        yield scales
    finally:
        for hook in hooks:
            hook.remove()
        quantize_(network, QATConfig(step="convert"))
        network.train(network.training)  # new layers are in training mode


def _rounded_layers(network: nn.Module, weights: RoundedWeights) -> list[str]:
    """Return the names of the layers that the number format rounds, without those of blocks that end early."""
    after = after_the_encoder(network)
    return [
        name
        for name, layer in linear_layers(network).items()
        if name not in after and (weights == "int8" or layer.in_features % BLOCK == 0)
    ]
