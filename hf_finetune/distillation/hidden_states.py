"""What a network computes on the way to its logits, taken by hooks that are idle unless it is asked for.

Queries and keys are taken where they are projected, so whatever kernel computes the attention, its maps can be told of them
without its dropout. A layer with such a hook inside is left alone by `fused_layers`; the last layer must not be narrowed to
the first token, see `first_token`.

Legend: B rows, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_finetune.errors import InputError
from hf_finetune.models.heads.pooling import PATCHES_AFTER, STAGED, TEXTS, Pool, PoolingKind, reading_of, states_of
from hf_finetune.models.kernels.narrow_last_layer import all_tokens
from hf_finetune.models.kernels.projections import NAMES
from hf_finetune.models.modules import encoder, encoder_layers

PROJECTIONS = ("query", "key", "value")
# Attention is the softmax of queries times keys, and nothing is added.
PLAIN = (
    *("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert"),
    *("vit", "deit", "dinov2", "dinov2_with_registers"),
)
# Positions are added to the scores, but a layer has queries, keys and values.
PROJECTED = (*PLAIN, "mpnet", "beit")
# One layer after the other, all of one width.
LAYERED = (*PROJECTED, "deberta-v2", "modernbert")
POOLED = (*TEXTS, *PATCHES_AFTER, *STAGED)


@dataclass(frozen=True)
class Wanted:
    """What is to be taken."""

    hidden: bool = False
    """States of all tokens after every layer."""
    attention: frozenset[int] = frozenset()
    """Layers, counted from 1, of which queries, keys and values."""
    poolings: frozenset[PoolingKind] = frozenset()
    """Embeddings of the rows."""

    def __or__(self, other: Wanted) -> Wanted:
        """What either asks for."""
        return Wanted(self.hidden or other.hidden, self.attention | other.attention, self.poolings | other.poolings)

    def refuse(self, config: PreTrainedConfig, *, maps: bool = False) -> None:
        """See that a family has it.

        Args:
            maps: attention maps are to be told of queries and keys.

        Raises:
            InputError: naming the families that have it.
        """
        family = config.model_type
        for asked, families, what in (
            (maps, PLAIN, "attention maps can be told of queries and keys in"),
            (bool(self.attention), PROJECTED, "queries, keys and values stand apart in"),
            (self.hidden, LAYERED, "layers of one width follow one another in"),
        ):
            if asked and family not in families:
                raise InputError(f"{what} {', '.join(families)}, not in {family}")
        if self.poolings and family not in POOLED:
            raise InputError(f"rows are read in {', '.join(POOLED)}, not in {family}")
        if "cls" in self.poolings and family in STAGED:
            raise InputError(f"{family} has no first token that stands for a row; pooling mean reads all of it")


@dataclass
class States:
    """What was taken of one forward pass."""

    mask_BT: torch.Tensor | None = None
    """0 for padding; None: there is none."""
    hidden: dict[int, torch.Tensor] = field(default_factory=dict)
    """Shape (B, T, D) after each layer, counted from 1; 0: of the embeddings."""
    attention: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)
    """`query`, `key` and `value` (B, T, D) by layer, counted from 1, all heads side by side."""
    pooled: dict[PoolingKind, torch.Tensor] = field(default_factory=dict)
    """Embeddings of the rows (B, D)."""


class Watch:
    """Hooks on a classifier, through a PEFT model as well, until `close`.

    Args:
        wanted: what they take.
        skip: leave out so many of the first tokens, those that stand before a picture's patches.
    """

    def __init__(self, model: nn.Module, wanted: Wanted, *, skip: int = 0) -> None:
        self.skip = skip
        self._states: States | None = None
        layers = encoder_layers(model) if wanted.hidden or wanted.attention else []
        self._hooks = [
            layer.register_forward_hook(partial(self._after_layer, number))
            for number, layer in enumerate(layers if wanted.hidden else [], start=1)
        ]
        for number in sorted(wanted.attention):
            for name, module in zip(PROJECTIONS, _projections(layers[number - 1]), strict=True):
                self._hooks.append(module.register_forward_hook(partial(self._projected, number, name)))
        if wanted.poolings:
            readings = {pooling: reading_of(model.config, pooling, 1) for pooling in sorted(wanted.poolings)}
            self._pools = {pooling: Pool(reading, 0) for pooling, reading in readings.items()}
            self._hooks.append(encoder(model).register_forward_hook(self._encoded))

    @contextmanager
    def recording(self, inputs: dict[str, Any]) -> Iterator[States]:
        """Inside, the states of the one forward pass that is made of these inputs are filled in."""
        self._states = states = States(inputs.get("attention_mask"))
        try:
            yield states
        finally:
            self._states = None

    def close(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()

    def _after_layer(self, number: int, _: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if self._states is not None:
            if number == 1:
                self._states.hidden[0] = inputs[0][:, self.skip :]
            after_BTD = output[0] if isinstance(output, tuple) else output
            self._states.hidden[number] = after_BTD[:, self.skip :]

    def _projected(self, number: int, name: str, _: nn.Module, __: tuple[Any, ...], output_BTD: torch.Tensor) -> None:
        if self._states is not None:
            self._states.attention.setdefault(number, {})[name] = output_BTD[:, self.skip :]

    def _encoded(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        if self._states is not None:
            last_BTD = states_of(output.last_hidden_state, None, 1)
            for pooling, pool in self._pools.items():
                self._states.pooled[pooling] = pool(last_BTD, self._states.mask_BT)


def embeddings(
    model: nn.Module, inputs: dict[str, torch.Tensor], poolings: Collection[PoolingKind]
) -> dict[PoolingKind, torch.Tensor]:
    """Embeddings (B, D) of a batch, whatever its last layer was narrowed to."""
    watch = Watch(model, Wanted(poolings=frozenset(poolings)))
    try:
        with all_tokens(model), watch.recording(inputs) as states:
            model(**inputs)
    finally:
        watch.close()
    return states.pooled


class Embedder(nn.Module):
    """A classifier that answers with the embeddings of its rows in the place of logits."""

    def __init__(self, model: nn.Module, pooling: PoolingKind) -> None:
        super().__init__()
        self.model, self.pooling = model, pooling
        self.train(model.training)

    def forward(self, **inputs: torch.Tensor) -> SequenceClassifierOutput:
        """`logits` are embeddings (B, D)."""
        return SequenceClassifierOutput(logits=embeddings(self.model, inputs, (self.pooling,))[self.pooling])


def _projections(layer: nn.Module) -> list[nn.Module]:
    """What makes queries, keys and values in a layer of a family of `PROJECTED`."""
    for module in layer.modules():
        children = dict(module.named_children())
        for names in NAMES:
            if all(name in children for name in names):
                return [children[name] for name in names]
    raise AssertionError(f"{type(layer).__name__} has no queries, keys and values")
