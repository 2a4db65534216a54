"""Intermediate features of a network: hidden states, queries, keys and values, and embeddings, recorded by hooks.

Queries and keys are taken where they are projected, so whatever kernel computes the attention, its maps can be told of
them without its dropout. A layer with such a hook inside is left alone by `fused_layers`; the last layer must not be
narrowed to the first token, see `narrow_last_layer`.

Legend: B rows, T tokens, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_finetune.distillation.losses.base import Features, Pooling, RequiredFeatures
from hf_finetune.models.heads.pooling import Pool, last_states, pooling_spec
from hf_finetune.models.kernels.narrow_last_layer import all_tokens
from hf_finetune.models.modules import encoder, encoder_layers, query_key_value

PROJECTIONS = ("query", "key", "value")


class FeatureRecorder:
    """Hooks on a classifier (through a PEFT model as well) until `close`; they are idle outside `recording`.

    Args:
        required: the features that they record.
        skip: how many of the first tokens are left out, those that stand before an image's patches.
    """

    def __init__(self, model: PreTrainedModel, required: RequiredFeatures, *, skip: int = 0) -> None:
        self.skip = skip
        self._features: Features | None = None
        self._hooks = []
        layers = encoder_layers(model) if required.hidden or required.attention else []
        for number in sorted(required.hidden):
            if number == 0:
                self._hooks.append(layers[0].register_forward_pre_hook(self._record_embeddings))
            else:
                self._hooks.append(layers[number - 1].register_forward_hook(partial(self._record_hidden, number)))
        for number in sorted(required.attention):
            for name, module in zip(PROJECTIONS, _projections(layers[number - 1]), strict=True):
                self._hooks.append(module.register_forward_hook(partial(self._record_projection, number, name)))
        if required.poolings:
            specs = {pooling: pooling_spec(model.config, pooling, 1) for pooling in sorted(required.poolings)}
            self._pools = {pooling: Pool(spec, 0) for pooling, spec in specs.items()}
            self._hooks.append(encoder(model).register_forward_hook(self._record_pooled))

    @contextmanager
    def recording(self, inputs: dict[str, Any]) -> Iterator[Features]:
        """Fill in the features of the one forward pass that is made of these inputs."""
        self._features = features = Features(inputs.get("attention_mask"))
        try:
            yield features
        finally:
            self._features = None

    def close(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()

    def _record_embeddings(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        if self._features is not None:
            self._features.hidden[0] = inputs[0][:, self.skip :]

    def _record_hidden(self, number: int, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        if self._features is not None:
            after_BTD = output[0] if isinstance(output, tuple) else output
            self._features.hidden[number] = after_BTD[:, self.skip :]

    def _record_projection(
        self, number: int, name: str, _: nn.Module, __: tuple[Any, ...], output_BTD: torch.Tensor
    ) -> None:
        if self._features is not None:
            self._features.attention.setdefault(number, {})[name] = output_BTD[:, self.skip :]

    def _record_pooled(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        if self._features is not None:
            last_BTD = last_states(output.last_hidden_state, None, 1)
            for pooling, pool in self._pools.items():
                self._features.pooled[pooling] = pool(last_BTD, self._features.mask_BT)


def embeddings(
    model: PreTrainedModel, inputs: dict[str, torch.Tensor], poolings: Collection[Pooling]
) -> dict[Pooling, torch.Tensor]:
    """Embeddings (B, D) of a batch, whatever its last layer was narrowed to."""
    recorder = FeatureRecorder(model, RequiredFeatures(poolings=frozenset(poolings)))
    with closing(recorder), all_tokens(model), recorder.recording(inputs) as features:
        model(**inputs)
    return features.pooled


class EmbeddingModel(nn.Module):
    """A classifier whose logits are the embeddings of its rows."""

    def __init__(self, model: PreTrainedModel, pooling: Pooling) -> None:
        super().__init__()
        self.model, self.pooling = model, pooling
        self.train(model.training)

    def forward(self, **inputs: torch.Tensor) -> SequenceClassifierOutput:
        """`logits` are embeddings (B, D)."""
        return SequenceClassifierOutput(logits=embeddings(self.model, inputs, (self.pooling,))[self.pooling])


def _projections(layer: nn.Module) -> list[nn.Module]:
    """What makes queries, keys and values in a layer of a family of `PROJECTED_ATTENTION`."""
    for module in layer.modules():
        if names := query_key_value(module):
            return [module.get_submodule(name) for name in names]
    raise AssertionError(f"{type(layer).__name__} has no queries, keys and values")
