"""Operations that a family cannot express are refused by its config: step, field and expectation in one line."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from transformers import AutoConfig

from hf_finetune.errors import InputError
from hf_finetune.models.surgery.operations import (
    AddLayers,
    DropLayers,
    ExtendPositions,
    KeepLayers,
    LayerDrop,
    NarrowHidden,
    ReinitTopLayers,
    ResizeFeedForward,
    ResizeImage,
    ResizePatches,
    SetActivation,
    SetAttention,
    SetDropout,
    SetKernelSize,
    SetPooling,
    StochasticDepth,
    SurgeryStep,
    config_after,
)

GIANT = {"use_swiglu_ffn": True}

# Family, fields of its config, operation, and parts of the message.
REFUSALS: list[tuple[str, dict, SurgeryStep, tuple[str, ...]]] = [
    ("bert", {}, KeepLayers(), ("first, last, every or layers", "got none")),
    ("bert", {}, KeepLayers(first=1, last=1), ("first, last, every or layers", "got first, last")),
    ("bert", {}, KeepLayers(first=13), ("first: expected 1 to 12", "got 13")),
    ("bert", {}, KeepLayers(layers=(3, 1)), ("layers: expected rising numbers from 0 to 11", "got [3, 1]")),
    ("bert", {}, DropLayers(layers=(12,)), ("layers: expected rising numbers from 0 to 11", "got [12]")),
    ("bert", {}, KeepLayers(layers=(1, 1)), ("layers: expected each number once", "got [1, 1]")),
    ("bert", {}, DropLayers(first=12), ("all 12 layers", "keep at least one")),
    ("bert", {}, ReinitTopLayers(13), ("count: expected 1 to 12", "got 13")),
    ("roberta", {}, ReinitTopLayers(1, pooler=True), ("pooler: expected false", "roberta")),
    ("albert", {}, ReinitTopLayers(1), ("albert share their weights",)),
    ("albert", {}, AddLayers(last=1), ("albert share their weights",)),
    ("resnet", {"hidden_act": "gelu"}, AddLayers(last=1), ("this resnet has hidden_act gelu", "expected relu")),
    ("poolformer", {"use_layer_scale": False}, AddLayers(last=1), ("use_layer_scale False", "expected True")),
    ("bert", {}, SetActivation("gleu"), ("activation: 'gleu'", "did you mean 'gelu'?")),
    ("dinov2", GIANT, SetActivation("relu"), ("this dinov2 has SwiGLU units",)),
    ("bert", {}, SetDropout(), ("hidden, attention, embeddings, classifier", "got none")),
    ("convnext", {}, SetDropout(hidden=0.1), ("hidden: convnext", "it has no dropout")),
    ("mpnet", {}, SetAttention("sdpa"), ("mpnet has no sdpa attention", "expected eager")),
    ("bert", {}, StochasticDepth(0.1), ("bert", "use LayerDrop")),
    ("swin", {}, StochasticDepth(0.1, "constant"), ("schedule: swin supports only linear",)),
    ("resnet", {}, StochasticDepth(0.1), ("resnet", "leave it out")),
    ("efficientnet", {}, StochasticDepth(0.1), ("efficientnet", "use SetDropout(hidden=...)")),
    ("swin", {}, LayerDrop(0.1), ("swin has stages", "use StochasticDepth")),
    ("resnet", {}, LayerDrop(0.1), ("resnet has stages", "leave it out")),
    ("albert", {}, LayerDrop(0.1), ("albert has one layer for all", "leave it out")),
    ("dinov2", GIANT, ResizeFeedForward(ratio=2.0), ("this dinov2 has SwiGLU units",)),
    ("bert", {}, ResizeFeedForward(), ("expected either width or ratio",)),
    ("bert", {}, ResizeFeedForward(width=8, ratio=2.0), ("expected either width or ratio",)),
    (
        "bert",
        {},
        ResizeFeedForward(ratio=0.0001),
        ("expected a whole number of neurons, at least 1, got 0.3072 from ratio",),
    ),
    ("swin", {}, ResizeFeedForward(width=8), ("swin's stages differ in width; give ratio",)),
    ("poolformer", {}, ResizeFeedForward(width=8), ("poolformer's stages differ in width; give ratio",)),
    ("poolformer", {}, ResizeFeedForward(ratio=0.01), ("got 2.56 from ratio 0.01",)),
    ("resnet", {}, ResizeFeedForward(ratio=2.0), ("resnet's config does not say how wide",)),
    ("convnext", {}, ResizeFeedForward(ratio=2.0), ("convnext's config does not say how wide",)),
    ("modernbert", {}, NarrowHidden(width=384), ("expected one of bert, ",)),
    ("bert", {}, NarrowHidden(), ("expected either width or ratio",)),
    (
        "bert",
        {},
        NarrowHidden(ratio=0.3),
        ("expected a whole number of features, at least 1, got 230.4 from ratio 0.3",),
    ),
    ("bert", {}, NarrowHidden(width=768), ("expected fewer than 768 and a multiple of the 12 heads, got 768",)),
    ("vit", {}, NarrowHidden(width=200), ("expected fewer than 768 and a multiple of the 12 heads, got 200",)),
    ("dinov2", GIANT, NarrowHidden(ratio=0.5), ("this dinov2 has SwiGLU units",)),
    ("dinov2", {}, ResizeFeedForward(width=1000), ("expected a multiple of 768", "got 1000; give 768 or 1536")),
    ("dinov2", {}, NarrowHidden(width=660), ("expected a divisor", "width 3072, got 660")),
    ("swin", {}, ResizePatches(4), ("expected one of vit, deit, ", "got swin; leave it out")),
    ("bert", {}, ResizePatches(4), ("expected one of vit, deit, ", "got bert; leave it out")),
    ("dinov2", {"image_size": 518}, ResizePatches(28), ("image_size: expected a multiple of 28", "504 or 532")),
    ("vit", {}, ResizePatches(32, 40), ("image_size: ", "got 40; give 32 or 64")),
    ("vit", {"image_size": [32, 64]}, ResizePatches(8), ("expected a checkpoint with square images",)),
    ("vit", {}, ResizeImage(10), ("size: expected a multiple of 16 pixels for this vit", "got 10; give 16 or 32")),
    ("swin", {}, ResizeImage(384), ("size: expected a multiple of 224", "got 384; give 224 or 448")),
    ("convnext", {}, ResizeImage(16), ("size: expected a multiple of 32 pixels for this convnext", "got 16")),
    ("resnet", {}, ResizeImage(16), ("size: expected at least 32 pixels for resnet", "got 16")),
    ("timm_wrapper", {}, ResizeImage(64), ("expected one of vit, ", "got timm_wrapper; leave it out")),
    ("modernbert", {}, ExtendPositions(150), ("this modernbert has rotary positions", "leave it out")),
    ("deberta-v2", {"position_biased_input": False}, ExtendPositions(150), ("relative positions", "leave it out")),
    ("vit", {}, ExtendPositions(150), ("expected one of bert, ", "got vit; leave it out")),
    ("bert", {"max_position_embeddings": 512}, ExtendPositions(150), ("length: this bert has 512", "got 150")),
    ("roberta", {"max_position_embeddings": 514}, ExtendPositions(150), ("length: this roberta has 512", "got 150")),
    ("resnet", {}, SetKernelSize(5), ("resnet has none in its config", "use an efficientnet or poolformer")),
    ("convnext", {}, SetKernelSize(5), ("convnext has none in its config",)),
    ("timm_wrapper", {}, SetKernelSize(5), ("timm_wrapper has none in its config",)),
    ("segformer", {}, SetKernelSize(5), ("segformer has none in its config",)),
    ("vit", {}, SetKernelSize(5), ("vit has none in its config",)),
    ("efficientnet", {}, SetKernelSize(4), ("size: stage 0 has kernels of 3", "at least 3, got 4")),
    ("efficientnet", {}, SetKernelSize(1), ("size: stage 0 has kernels of 3", "at least 3, got 1")),
    ("poolformer", {}, SetKernelSize(1), ("size: stage 0 has kernels of 7", "at least 3, got 1")),
    ("poolformer", {}, SetKernelSize(5, stages=(4,)), ("stages: poolformer has stages 0 to 3", "got 4")),
    ("poolformer", {}, SetPooling(), ("expected kind (efficientnet) or size (poolformer)",)),
    ("resnet", {}, SetPooling(size=3), ("size: pooling of resnet",)),
    ("efficientnet", {}, SetPooling(size=3), ("size: pooling of efficientnet", "use kind")),
    ("poolformer", {}, SetPooling(kind="max"), ("kind: pooling of poolformer", "use kind with an efficientnet, size")),
]


@pytest.mark.parametrize(("family", "fields", "step", "words"), REFUSALS, ids=lambda value: str(value)[:60])
def test_refused_by_the_config_alone(family: str, fields: dict, step: SurgeryStep, words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        config_after(AutoConfig.for_model(family, **fields), [step])
    message = str(caught.value)
    assert message.startswith(f"model.surgery: {type(step).__name__}: ") and "\n" not in message
    for word in words:
        assert word in message


# Values that no network can have are refused by the fields themselves.
@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: DropLayers(every=0), "DropLayers.every"),
        (lambda: DropLayers(layers=(-1,)), "DropLayers.layers"),
        (lambda: ReinitTopLayers(0), "ReinitTopLayers.count"),
        (lambda: SetDropout(hidden=1.0), "SetDropout.hidden"),
        (lambda: StochasticDepth(1.0), "StochasticDepth.rate"),
        (lambda: LayerDrop(1.5), "LayerDrop.rate"),
        (lambda: ResizeFeedForward(width=0), "ResizeFeedForward.width"),
        (lambda: NarrowHidden(ratio=0.0), "NarrowHidden.ratio"),
        (lambda: ResizePatches(0), "ResizePatches.size"),
        (lambda: SetKernelSize(5, stages=(-1,)), "SetKernelSize.stages"),
        (lambda: SetPooling(size=4), "SetPooling.size"),
    ],
)
def test_refused_by_the_field(build: Callable[[], SurgeryStep], field: str) -> None:
    with pytest.raises(InputError, match=rf"^{field}\S*: expected "):
        build()
