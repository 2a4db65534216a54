"""Record intermediate features of a network by hooks: hidden states, queries, keys and values, and embeddings.

Queries and keys are recorded where they are projected, so attention maps follow from them whatever kernel computes the
attention, and without dropout. `fused_layers` skips a layer with such a hook; the last layer must not be narrowed to
the first token, see `narrow_last_layer`.

Legend: B rows, T tokens, D width.
"""

from collections.abc import Callable, Iterator
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
    """Hooks on a classifier or its PEFT model; they are idle outside `recording`, and stay until `close`.

    Args:
        required: the features to record.
    """

    def __init__(self, model: PreTrainedModel, required: RequiredFeatures) -> None:
        self.skip = required.skipped_tokens
        self._features: Features | None = None
        self._hooks = []
        layers = encoder_layers(model) if required.has_tokens else []
        for layer in sorted(required.hidden):
            hook = self._hook(partial(self._record_hidden, layer))
            if layer == 0:
                self._hooks.append(layers[0].register_forward_pre_hook(hook))
            else:
                self._hooks.append(layers[layer - 1].register_forward_hook(hook))
        for layer in sorted(required.attention):
            for name, module in zip(PROJECTIONS, _projections(layers[layer - 1]), strict=True):
                hook = self._hook(partial(self._record_projection, layer, name))
                self._hooks.append(module.register_forward_hook(hook))
        if required.poolings:
            specs = {pooling: pooling_spec(model.config, pooling, 1) for pooling in sorted(required.poolings)}
            self._pools = {pooling: Pool(spec, 0) for pooling, spec in specs.items()}
            self._hooks.append(encoder(model).register_forward_hook(self._hook(self._record_pooled)))

    @contextmanager
    def recording(self, inputs: dict[str, Any]) -> Iterator[Features]:
        """Fill in the features of one forward pass of these inputs."""
        self._features = features = Features(inputs.get("attention_mask"))
        try:
            yield features
        finally:
            self._features = None

    def close(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()

    def _hook(self, record: Callable[[Features, Any], None]) -> Callable[..., None]:
        """Return a hook, forward or pre-forward, that records a module's output or inputs."""

        def hook(_: nn.Module, *tensors: Any) -> None:
            if self._features is not None:
                record(self._features, tensors[-1])

        return hook

    def _record_hidden(self, layer: int, features: Features, states: Any) -> None:
        states_BTD = states[0] if isinstance(states, tuple) else states
        features.hidden[layer] = states_BTD[:, self.skip :]

    def _record_projection(self, layer: int, name: str, features: Features, projected_BTD: torch.Tensor) -> None:
        features.attention.setdefault(layer, {})[name] = projected_BTD[:, self.skip :]

    def _record_pooled(self, features: Features, output: Any) -> None:
        last_BTD = last_states(output.last_hidden_state, None, 1)
        features.pooled = {pooling: pool(last_BTD, features.mask_BT) for pooling, pool in self._pools.items()}


class EmbeddingModel(nn.Module):
    """A classifier with embeddings as logits, even if its last layer is narrowed to the first token."""

    def __init__(self, model: PreTrainedModel, pooling: Pooling) -> None:
        super().__init__()
        self.model, self.pooling = model, pooling
        self.train(model.training)

    def forward(self, **inputs: torch.Tensor) -> SequenceClassifierOutput:
        """Return the embeddings (B, D) as `logits`."""
        recorder = FeatureRecorder(self.model, RequiredFeatures(poolings=frozenset({self.pooling})))
        with closing(recorder), all_tokens(self.model), recorder.recording(inputs) as features:
            self.model(**inputs)
        return SequenceClassifierOutput(logits=features.pooled[self.pooling])


def _projections(layer: nn.Module) -> list[nn.Module]:
    """Return the projections to queries, keys and values in a layer of a family of `AttentionRelations`."""
    for module in layer.modules():
        if names := query_key_value(module):
            return [module.get_submodule(name) for name in names]
    raise AssertionError(f"{type(layer).__name__} has no queries, keys and values")
