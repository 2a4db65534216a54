"""Layers of another class, or another attention kernel, for a while; after, the model is as before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import nn
from transformers import PreTrainedModel


class Exchange(NamedTuple):
    """A layer, the class that it has inside, and the attributes that this class needs."""

    layer: nn.Module
    cls: Any
    attributes: dict[str, object]


@contextmanager
def exchanged(exchanges: Sequence[Exchange]) -> Iterator[None]:
    """Inside, the layers are of other classes; nothing of it is saved."""
    own_classes = [type(exchange.layer) for exchange in exchanges]
    for layer, cls, attributes in exchanges:
        layer.__class__ = cls
        vars(layer).update(attributes)
    try:
        yield
    finally:
        for (layer, _, attributes), own in zip(exchanges, own_classes, strict=True):
            layer.__class__ = own
            for name in attributes:
                del vars(layer)[name]


@contextmanager
def attention_kernel(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Inside, the model computes attention with this kernel."""
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
