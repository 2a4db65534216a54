"""Give layers another class, or a model another attention kernel, inside a context."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import nn
from transformers import PreTrainedModel


class ClassSwap(NamedTuple):
    """A layer, its class in the context, and the attributes that this class needs."""

    layer: nn.Module
    cls: Any
    attributes: dict[str, object]


@contextmanager
def swapped_classes(swaps: Sequence[ClassSwap]) -> Iterator[None]:
    """Swap the classes of layers, and restore them afterwards; saved files do not change."""
    original_classes = [type(swap.layer) for swap in swaps]
    for layer, cls, attributes in swaps:
        layer.__class__ = cls
        vars(layer).update(attributes)
    try:
        yield
    finally:
        for (layer, _, attributes), original in zip(swaps, original_classes, strict=True):
            layer.__class__ = original
            for name in attributes:
                del vars(layer)[name]


@contextmanager
def attention_kernel(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Switch the attention kernel of a model, and switch back afterwards."""
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
